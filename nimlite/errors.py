"""Every error that nimlite raises on purpose.

    NimliteError
    ├── UserError (ValueError)          the user's mistake; the sentence says what is allowed
    │   ├── SettingError                a NIM_* variable, flag or file of settings
    │   ├── ManifestError               profiles/*.yaml
    │   ├── ModelError                  a checkpoint that we can't read or don't support
    │   ├── TargetError                 a GPU that a TensorRT plan can't be built for
    │   └── RequestError                an HTTP request (400)
    │       ├── ContextLengthError      prompt + max_tokens over the context, or over the KV pool
    │       ├── AuthenticationError     401
    │       ├── ModelNotFoundError      404
    │       ├── RequestNotFoundError    404: nothing under way by that id
    │       └── PayloadTooLargeError    413
    ├── ArtifactError                   the outside world: downloads, disks
    │   ├── DownloadError
    │   │   └── UnreachableError        no network, or none that leads there
    │   └── ChecksumError               a file whose digest is not the one expected
    ├── EngineError                     the engine
    │   ├── BuildError
    │   ├── SelfTestError               built, but its output is not the reference's
    │   ├── NotReadyError               503: still starting, or draining
    │   ├── OverloadedError             429
    │   ├── QuotaError                  429: the limits of one API key
    │   ├── DeadlineError               504: the client's own time-out
    │   ├── RequestCancelledError       499: by DELETE /v1/requests
    │   └── EngineDeadError             the engine loop ended; its requests end with this
    └── BenchmarkError                  a system under test that gives no figure

Each class knows its process exit code, its HTTP status and its OpenAI error type, so that the two
edges of the process (the command line and the HTTP app) translate without a table of their own.
"""

from typing import ClassVar


class NimliteError(Exception):
    """Root of the tree. `str(error)` is a sentence that a user can act on."""

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"
    code: ClassVar[str | None] = None
    retry_after_s: int | None = None
    """When a client should ask again, where that is known."""


class UserError(NimliteError, ValueError):
    """Something the user gave is wrong: what was given, what is allowed, what to do."""

    exit_code = 2
    status = 400
    type = "invalid_request_error"


class SettingError(UserError):
    """A setting that can't be used."""


class ManifestError(UserError):
    """A profile manifest that can't be used: file, line, key and what was expected."""


class ModelError(UserError):
    """A model that can't be read, or whose architecture is not supported."""


class TargetError(UserError):
    """A GPU, or a precision on it, that a TensorRT plan can't be built for."""


class RequestError(UserError):
    """A request that can't be served. `param` names the offending field, as OpenAI does."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.error_code = code or self.code


class ContextLengthError(RequestError):
    """The request needs more tokens than the context or the KV pool holds."""

    code = "context_length_exceeded"


class AuthenticationError(RequestError):
    """The request brings no API key, or a wrong one."""

    status = 401
    code = "invalid_api_key"


class ModelNotFoundError(RequestError):
    """No such model is served here."""

    status = 404
    code = "model_not_found"


class RequestNotFoundError(RequestError):
    """No request of that id is under way."""

    status = 404
    code = "request_not_found"


class PayloadTooLargeError(RequestError):
    """The body is larger than the server reads."""

    status = 413
    code = "payload_too_large"


class ArtifactError(NimliteError):
    """A file that could not be had or trusted."""

    exit_code = 3


class DownloadError(ArtifactError):
    """A download that failed after its retries; a later start resumes it."""


class UnreachableError(DownloadError):
    """A server that can't be reached: what it has must come from elsewhere."""


class ChecksumError(ArtifactError):
    """A file whose digest is not the one that was pinned or sealed."""


class EngineError(NimliteError):
    """The engine could not be built, loaded or kept alive."""

    exit_code = 4


class BuildError(EngineError):
    """A build that failed; nothing half-made is left behind."""


class SelfTestError(EngineError):
    """The engine runs, but its output differs from the reference's by more than the tolerance."""


class NotReadyError(EngineError):
    """The server is starting or draining."""

    status = 503
    type = "service_unavailable"
    code = "not_ready"


class OverloadedError(EngineError):
    """The queue is full; try again later."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class QuotaError(EngineError):
    """The API key has no more for now."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class DeadlineError(EngineError):
    """The time that the client gave has passed."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class RequestCancelledError(EngineError):
    """The client cancelled it by another request."""

    status = 499
    type = "request_cancelled"
    code = "request_cancelled"


class EngineDeadError(EngineError):
    """The engine loop ended unexpectedly."""

    status = 503
    type = "service_unavailable"
    code = "engine_dead"


class BenchmarkError(NimliteError):
    """A system under test that did not start, or did not answer as it was asked to."""

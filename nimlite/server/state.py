"""What the endpoints share: configuration, the model once it is there, answers under way."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nimlite.engine.request import Delta, EngineStats, Request
from nimlite.errors import (
    EngineError,
    ModelNotFoundError,
    NimliteError,
    NotReadyError,
    RequestCancelledError,
    RequestError,
    RequestNotFoundError,
)
from nimlite.models.embedding import EmbeddingSpec
from nimlite.observe.metrics import ServerMetrics
from nimlite.server.admission import Admission, Ticket
from nimlite.server.caller import Caller
from nimlite.server.config import ServerConfig
from nimlite.server.startup import Startup
from nimlite.server.tokenizer import Tokenizer


class EngineClient(Protocol):
    """The engine as the server sees it; `nimlite.engine.client.EngineClient` is the real one."""

    @property
    def outage(self) -> EngineError | None:
        """Why requests are not taken; None where they are. NotReadyError: they will be again."""

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[list[Delta]]:
        """The deltas of all `requests`, interleaved, until all finished: each time all that came
        since the last.

        An async generator: closing it aborts what is left. Raises ContextLengthError,
        and the `outage`.
        """

    def abort(self, request_id: str) -> None: ...

    def stats(self) -> EngineStats: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A loaded model: the engine, its tokenizer, and what a client may want to know of it."""

    engine: EngineClient
    tokenizer: Tokenizer
    max_model_len: int
    """Prompt and output tokens of one request together; never more than the KV pool holds."""
    shares_context: bool = True
    """False where an encoder reads the prompt: it and the output have a context each."""
    vocab_size: int
    """Rows of the embedding: token ids from a client must be below it."""
    max_num_seqs: int
    """Sequences that the engine runs at once."""
    embedding: EmbeddingSpec = EmbeddingSpec()  # noqa: RUF009 - frozen
    """How it embeds texts."""
    generates: bool = True
    """False: it is for embeddings and nothing else."""
    source: str = ""
    """Where the weights came from, e.g. `hf://org/name`."""
    profile: str = ""
    """Id of the profile that is running."""
    license: str = ""
    """SPDX id of the model's licence."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """The model's profiles in NIM's shape."""
    loaded_at: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""


class Interruptible(Protocol):
    """An answer under way."""

    caller: Caller
    answer_id: str
    """Empty before it is known."""

    def interrupt(self, error: NimliteError) -> None:
        """End it now with an error that the client can read."""


class ServerState:
    """Explicitly handed to every endpoint; only the event loop's thread changes it."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.startup = Startup()
        self.metrics = ServerMetrics(config.served_model_names[0], self._stats)
        self.running: set[Interruptible] = set()
        self.admission = Admission(config.max_waiting)
        self.plan: Mapping[str, Any] = {}
        """What was decided for this machine, for the status page."""
        self.draining = False
        self._model: ServedModel | None = None

    @property
    def model(self) -> ServedModel:
        """The loaded model. Raises NotReadyError before there is one, and what its engine's outage
        is."""
        if self._model is None:
            raise NotReadyError(self.startup.describe())
        if (outage := self._model.engine.outage) is not None:
            raise outage
        return self._model

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    @property
    def is_ready(self) -> bool:
        """Its engine is there, too."""
        return self._model is not None and self._model.engine.outage is None

    def set_ready(self, model: ServedModel) -> None:
        """From here on requests are answered."""
        self._model = model
        self.metrics.num_request_max.set(model.max_num_seqs)

    def require_ready(self) -> ServedModel:
        """The model, where a new request may use it. Raises NotReadyError also while draining."""
        if self.draining:
            raise NotReadyError("The server is shutting down and takes no new requests.")
        return self.model

    def admit(
        self, model_name: str, caller: Caller, *, embeds: bool = False
    ) -> tuple[ServedModel, Ticket]:
        """For a new request: one that `embeds`, or one that generates. Raises ModelNotFoundError,
        NotReadyError, QuotaError, OverloadedError, or RequestError where the model generates
        nothing."""
        self.require_name(model_name)
        model = self.require_ready()
        if not model.generates and not embeds:
            raise RequestError(
                f"The model {model_name!r} makes embeddings and writes no text: use"
                " /v1/embeddings.",
                param="model",
            )
        num_waiting = model.engine.stats().num_waiting
        ticket = self.admission.take(
            caller.key, num_waiting=num_waiting, max_num_seqs=model.max_num_seqs
        )
        return model, ticket

    def cancel(self, given_id: str, caller: Caller) -> int:
        """End what is under way by that X-Request-Id, or that id of an answer, of the same API key.
        Returns how many. Raises RequestNotFoundError."""
        found = [
            answer
            for answer in self.running
            if given_id in (answer.caller.request_id, answer.answer_id)
            and answer.caller.key.name == caller.key.name
        ]
        if not found:
            raise RequestNotFoundError(
                f"No request {given_id[:100]!r} is under way: it has ended, or was never here."
            )
        for answer in found:
            answer.interrupt(RequestCancelledError("The request was cancelled by its client."))
        return len(found)

    def require_name(self, model_name: str) -> None:
        """Raises ModelNotFoundError where `model_name` isn't served."""
        names = self.config.served_model_names
        if model_name not in names:
            raise ModelNotFoundError(
                f"The model {model_name[:100]!r} does not exist. Served here: {', '.join(names)}.",
                param="model",
            )

    def _stats(self) -> EngineStats:
        return self._model.engine.stats() if self._model is not None else EngineStats()

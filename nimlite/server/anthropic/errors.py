"""Anthropic's error object."""

import http
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from nimlite.errors import NimliteError

_TYPES: dict[int, str] = {
    http.HTTPStatus.UNAUTHORIZED: "authentication_error",
    http.HTTPStatus.FORBIDDEN: "permission_error",
    http.HTTPStatus.NOT_FOUND: "not_found_error",
    http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    http.HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    http.HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
}


class AnthropicErrorDetail(BaseModel):
    """What went wrong, and what to do."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """Anthropic's kind of error."""
    message: str
    """A sentence that says what was given, what is allowed and what to do."""


class AnthropicErrorBody(BaseModel):
    """The body of every answer of these endpoints with a status of 400 or more."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: Literal["error"]
    """Always "error"."""
    error: AnthropicErrorDetail
    """What went wrong."""


def anthropic_error(error: NimliteError | None) -> dict[str, Any]:
    """Of an error of ours; None for our own bugs, whose text is for the log."""
    if error is None:
        message = "The server met an internal error; its log says more."
        return anthropic_error_object(message, http.HTTPStatus.INTERNAL_SERVER_ERROR)
    return anthropic_error_object(str(error), error.status)


def anthropic_error_object(message: str, status: int) -> dict[str, Any]:
    """The body of an answer with this status."""
    default = "invalid_request_error" if status < 500 else "api_error"
    error_type = _TYPES.get(status, default)
    return {"type": "error", "error": {"type": error_type, "message": message}}

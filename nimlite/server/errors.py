"""The error object, OpenAI's or Anthropic's, for every way in which a request can fail."""

import http
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from nimlite.errors import NimliteError, RequestError
from nimlite.server.anthropic.errors import anthropic_error, anthropic_error_object
from nimlite.server.json_bytes import json_bytes


class ErrorDetail(BaseModel):
    """What went wrong, where, and what to do."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    message: str
    """A sentence that says what was given, what is allowed and what to do."""
    type: str
    """OpenAI's kind of error."""
    param: str | None
    """The field or the header that is to blame."""
    code: str | None
    """One word for programs."""


class ErrorBody(BaseModel):
    """The body of every answer with a status of 400 or more."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    error: ErrorDetail
    """What went wrong."""


def error_object(error: NimliteError) -> dict[str, Any]:
    if isinstance(error, RequestError):
        return _object(str(error), error.type, param=error.param, code=error.error_code)
    return _object(str(error), error.type, code=error.code)


def error_response(error: NimliteError, path: str, *, retry_after_s: int) -> Response:
    """In the words of the protocol that is spoken at `path`. `retry_after_s`: where the error does
    not know better."""
    content = anthropic_error(error) if is_anthropic(path) else error_object(error)
    response = json_response(content, status=error.status)
    if error.status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
        response.headers["Retry-After"] = str(error.retry_after_s or retry_after_s)
    return response


def internal_error_object() -> dict[str, Any]:
    """For our own bugs, whose text is for the log and not for the client."""
    return _object("The server met an internal error; its log says more.", "internal_error")


def json_response(content: object, *, status: int = http.HTTPStatus.OK) -> Response:
    return Response(json_bytes(content), status_code=status, media_type="application/json")


def install_error_handlers(app: FastAPI, retry_after_s: int) -> None:
    """Also for paths and methods that don't exist, and for bugs (which uvicorn logs)."""

    async def on_nimlite_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, NimliteError)
        return error_response(error, request.url.path, retry_after_s=retry_after_s)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        content = _http_object(request, error)
        if is_anthropic(request.url.path):
            message = content["error"]["message"]
            content = anthropic_error_object(message, error.status_code)
        response = json_response(content, status=error.status_code)
        response.headers.update(error.headers or {})
        return response

    async def on_bug(request: Request, error: Exception) -> Response:
        speaks_anthropic = is_anthropic(request.url.path)
        content = anthropic_error(None) if speaks_anthropic else internal_error_object()
        return json_response(content, status=http.HTTPStatus.INTERNAL_SERVER_ERROR)

    app.add_exception_handler(NimliteError, on_nimlite_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_bug)


def is_anthropic(path: str) -> bool:
    """Whether Anthropic's protocol is spoken there."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def _http_object(request: Request, error: HTTPException) -> dict[str, Any]:
    where = f"{request.method} {request.url.path[:200]}"
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        message = f"Unknown path: {where}. GET /openapi.json lists those that exist."
        return _object(message, "invalid_request_error", code="unknown_path")
    if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"Wrong method: {where}. Allowed: {allowed}."
        return _object(message, "invalid_request_error", code="method_not_allowed")
    return _object(str(error.detail), "invalid_request_error")


def _object(
    message: str, error_type: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    detail = ErrorDetail(message=message, type=error_type, param=param, code=code)
    return ErrorBody(error=detail).model_dump()

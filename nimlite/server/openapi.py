"""The OpenAPI page: what FastAPI finds in the routes, with the bodies, headers and errors that it
can't know of."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from nimlite.server.anthropic.body import CountTokensRequest, MessagesRequest
from nimlite.server.anthropic.errors import AnthropicErrorBody
from nimlite.server.api_keys import OPEN_PATHS
from nimlite.server.caller import MAX_TIMEOUT_S
from nimlite.server.embeddings import EmbeddingsRequest
from nimlite.server.errors import ErrorBody, is_anthropic
from nimlite.server.protocol import ChatCompletionRequest, CompletionRequest
from nimlite.server.responses.body import ResponsesRequest
from nimlite.server.tokenization import DetokenizeRequest, TokenizeRequest

_MODELS = (
    ErrorBody,
    AnthropicErrorBody,
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingsRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_SCHEMA_REF = "#/components/schemas/{model}"
_STREAMING = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}
_RUNNING = _STREAMING | {"/v1/embeddings"}
"""What the engine answers."""

_ERRORS = {
    400: "The request can't be served: what was given, what is allowed, what to do.",
    401: "No API key, or a wrong one.",
    404: "There is nothing of that name or id here.",
    413: "The body is larger than this server reads.",
    415: "The body is not sent as JSON.",
    429: "The queue is full (`overloaded`), or the API key has no more for now "
    "(`rate_limit_exceeded`).",
    499: "The request was cancelled by DELETE /v1/requests.",
    500: "An internal error: a bug, of which the server's log says more.",
    503: "The server is starting or shutting down (`not_ready`), or its engine has stopped "
    "(`engine_dead`).",
    504: "The answer was not complete within the request's X-Request-Timeout.",
}
_OF_BODIES = (400, 404, 413, 415, 503)
_OF_RUNNING = (429, 499, 504)
_OF_PATHS: dict[tuple[str, str], tuple[int, ...]] = {
    ("get", "/v1/responses/{response_id}"): (404,),
    ("delete", "/v1/responses/{response_id}"): (404,),
    ("get", "/v1/responses/{response_id}/input_items"): (404,),
    ("post", "/v1/responses/{response_id}/cancel"): (400, 404),
    ("delete", "/v1/requests/{request_id}"): (400, 404),
    ("get", "/v1/models"): (503,),
    ("get", "/v1/models/{name}"): (404, 503),
    ("get", "/v1/health/live"): (503,),
    ("get", "/v1/health/ready"): (503,),
    ("get", "/v1/metadata"): (503,),
    ("get", "/v1/manifest"): (503,),
}

_PARAMETERS = {
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "An id of the client's own, which the answer carries and by which DELETE "
        "/v1/requests cancels. One that is longer, or has other characters, is replaced.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,256}$"},
    },
    "X-Request-Timeout": {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "Seconds, in plain decimals, after which the request is ended: with 504, or "
        "with an event of a stream that has begun.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S},
    },
}
_HEADERS = {
    "X-Request-Id": {
        "description": "The request's own id, or one that was made for it.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait before asking again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {
        "description": "How to send a key.",
        "required": True,
        "schema": {"type": "string"},
    },
}
_HEADERS_OF = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


class DescribedApp(FastAPI):
    """Makes its page when it is asked for: it would take a tenth of a start."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _describe(self)
        return self.openapi_schema


def body_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """For a route whose body is read by `read_body`, whose errors say more than FastAPI's."""
    content = {"application/json": {"schema": _reference(schema)}}
    return {"requestBody": {"required": True, "content": content}}


def _describe(app: FastAPI) -> dict[str, Any]:
    page = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for path, operations in page["paths"].items():
        for method, operation in operations.items():
            _complete(operation, method, path)
    _, models = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template=_SCHEMA_REF
    )
    page["components"] = {
        "schemas": models["$defs"],
        "parameters": _PARAMETERS,
        "headers": _HEADERS,
    }
    return page


def _complete(operation: dict[str, Any], method: str, path: str) -> None:
    runs = (method, path) in {("post", known) for known in _RUNNING}
    names = ["X-Request-Id", "X-Request-Timeout"] if runs else ["X-Request-Id"]
    parameters = [{"$ref": f"#/components/parameters/{name}"} for name in names]
    operation["parameters"] = [*operation.get("parameters", ()), *parameters]

    success = operation["responses"]["200"]
    success["headers"] = _headers("X-Request-Id")
    if runs and path in _STREAMING:
        success["content"]["text/event-stream"] = {}  # OpenAPI 3.1 can't describe events
    if path == "/v1/metrics":
        success["content"] = {"text/plain": {"schema": {"type": "string"}}}

    statuses = {500, *_OF_PATHS.get((method, path), ())}
    statuses |= set() if path in OPEN_PATHS else {401}
    statuses |= set(_OF_BODIES) if "requestBody" in operation else set()
    statuses |= set(_OF_RUNNING) if runs else set()
    errors = {str(status): _error(status, path) for status in sorted(statuses)}
    operation["responses"] = {"200": success} | errors


def _error(status: int, path: str) -> dict[str, Any]:
    model = AnthropicErrorBody if is_anthropic(path) else ErrorBody
    names = ["X-Request-Id"] + ([_HEADERS_OF[status]] if status in _HEADERS_OF else [])
    return {
        "description": _ERRORS[status],
        "headers": _headers(*names),
        "content": {"application/json": {"schema": _reference(model)}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _reference(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _SCHEMA_REF.format(model=schema.__name__)}

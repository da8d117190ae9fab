"""The HTTP application: paths to endpoints."""

from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from nimlite.server import health, metadata, models, tokenization
from nimlite.server.anthropic import endpoint as anthropic
from nimlite.server.anthropic.body import CountTokensRequest, MessagesRequest
from nimlite.server.anthropic.endpoint import answer_messages
from nimlite.server.api_keys import KeyCheck
from nimlite.server.body_limit import BodyLimit
from nimlite.server.caller import Caller
from nimlite.server.chat import answer_chat
from nimlite.server.completions import answer_completion
from nimlite.server.embeddings import EmbeddingsAnswer, EmbeddingsRequest
from nimlite.server.errors import install_error_handlers, json_response
from nimlite.server.openapi import DescribedApp, body_schema
from nimlite.server.page import add_page
from nimlite.server.protocol import ChatCompletionRequest, CompletionRequest
from nimlite.server.request_id import RequestId
from nimlite.server.responses.body import ResponsesRequest
from nimlite.server.responses.endpoint import Responses
from nimlite.server.state import ServerState
from nimlite.server.tokenization import DetokenizeRequest, TokenizeRequest
from nimlite.server.validation import read_body
from nimlite.version import __version__


def create_app(state: ServerState) -> FastAPI:
    """All endpoints over `state`; before the model is there they answer 503 where they must."""
    app = DescribedApp(title="nimlite", version=__version__, redirect_slashes=False)
    app.add_middleware(BodyLimit, max_bytes=state.config.max_body_bytes)
    app.add_middleware(KeyCheck, keys=state.config.keys)
    if state.config.cors is not None:
        state.config.cors.add_to(app)
    app.add_middleware(RequestId)
    install_error_handlers(app, state.config.retry_after_s)
    _add_generation(app, state)
    _add_embeddings(app, state)
    _add_responses(app, state)
    _add_messages(app, state)
    _add_requests(app, state)
    _add_tokenization(app, state)
    _add_models(app, state)
    _add_health(app, state)
    _add_metadata(app, state)
    add_page(app)
    return app


def _add_generation(app: FastAPI, state: ServerState) -> None:
    @app.post("/v1/chat/completions", openapi_extra=body_schema(ChatCompletionRequest))
    async def chat_completions(request: Request) -> Response:
        return answer_chat(state, await read_body(request, ChatCompletionRequest))

    @app.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
    async def completions(request: Request) -> Response:
        return answer_completion(state, await read_body(request, CompletionRequest))


def _add_embeddings(app: FastAPI, state: ServerState) -> None:
    @app.post("/v1/embeddings", openapi_extra=body_schema(EmbeddingsRequest))
    async def embeddings(request: Request) -> Response:
        return EmbeddingsAnswer(state, await read_body(request, EmbeddingsRequest))


def _add_responses(app: FastAPI, state: ServerState) -> None:
    responses = Responses(state)

    @app.post("/v1/responses", openapi_extra=body_schema(ResponsesRequest))
    async def create_response(request: Request) -> Response:
        body = await read_body(request, ResponsesRequest)
        return await responses.create(body, Caller.of(request.scope))

    @app.get("/v1/responses/{response_id}")
    async def get_response(response_id: str) -> Response:
        return json_response(responses.get(response_id))

    @app.get("/v1/responses/{response_id}/input_items")
    async def list_input_items(response_id: str) -> Response:
        return json_response(responses.input_items(response_id))

    @app.post("/v1/responses/{response_id}/cancel")
    async def cancel_response(response_id: str) -> Response:
        return json_response(await responses.cancel(response_id))

    @app.delete("/v1/responses/{response_id}")
    async def delete_response(response_id: str) -> Response:
        return json_response(await responses.delete(response_id))


def _add_requests(app: FastAPI, state: ServerState) -> None:
    # An id is the client's own, and may hold slashes.
    @app.delete("/v1/requests/{request_id:path}")
    async def cancel_request(request_id: str, request: Request) -> Response:
        num_cancelled = state.cancel(request_id, Caller.of(request.scope))
        answer = {"id": request_id, "object": "request", "num_cancelled": num_cancelled}
        return json_response(answer)


def _add_messages(app: FastAPI, state: ServerState) -> None:
    @app.post("/v1/messages", openapi_extra=body_schema(MessagesRequest))
    async def messages(request: Request) -> Response:
        return answer_messages(state, await read_body(request, MessagesRequest))

    @app.post("/v1/messages/count_tokens", openapi_extra=body_schema(CountTokensRequest))
    async def count_tokens(request: Request) -> Response:
        body = await read_body(request, CountTokensRequest)
        return json_response(await anthropic.count_tokens(state, body))


def _add_tokenization(app: FastAPI, state: ServerState) -> None:
    @app.post("/v1/chat/completions/render", openapi_extra=body_schema(ChatCompletionRequest))
    async def render_chat(request: Request) -> Response:
        body = await read_body(request, ChatCompletionRequest)
        return json_response(await tokenization.render_conversation(state, body))

    @app.post("/v1/completions/render", openapi_extra=body_schema(CompletionRequest))
    async def render_completion(request: Request) -> Response:
        body = await read_body(request, CompletionRequest)
        return json_response(await tokenization.render_prompts(state, body))

    for prefix in ("", "/v1"):  # vLLM has the first, other servers the second

        @app.post(f"{prefix}/tokenize", openapi_extra=body_schema(TokenizeRequest))
        async def tokenize(request: Request) -> Response:
            body = await read_body(request, TokenizeRequest)
            return json_response(await tokenization.tokenize(state, body))

        @app.post(f"{prefix}/detokenize", openapi_extra=body_schema(DetokenizeRequest))
        async def detokenize(request: Request) -> Response:
            body = await read_body(request, DetokenizeRequest)
            return json_response(tokenization.detokenize(state, body))


def _add_models(app: FastAPI, state: ServerState) -> None:
    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return models.list_models(state)

    # A name may hold slashes, as `org/name`.
    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        return models.show_model(state, name)


def _add_health(app: FastAPI, state: ServerState) -> None:
    @app.get("/v1/health/live")
    async def live() -> Response:
        return health.live(state)

    @app.get("/v1/health/ready")
    async def ready() -> Response:
        return health.ready(state)

    @app.get("/v1/startup")
    async def startup() -> dict[str, Any]:
        return health.startup(state)

    @app.get("/v1/metrics")
    async def metrics() -> Response:
        return Response(state.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _add_metadata(app: FastAPI, state: ServerState) -> None:
    @app.get("/v1/metadata")
    async def show_metadata() -> dict[str, Any]:
        return metadata.metadata(state)

    @app.get("/v1/manifest")
    async def show_manifest() -> dict[str, Any]:
        return metadata.manifest(state)

    @app.get("/v1/status")
    async def show_status() -> dict[str, Any]:
        return metadata.status(state)

    @app.get("/v1/version")
    async def version() -> dict[str, str]:
        return metadata.version()

    @app.get("/v1/license")
    async def license_info() -> dict[str, Any]:
        return metadata.license_info(state)

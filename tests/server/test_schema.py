"""Requests generated from the OpenAPI schema: never a 5xx but for a deadline, no status,
header or body that the schema doesn't declare, always the error object. `scripts/fuzz` asks for
more of them."""

import os

import schemathesis
from fakes.live_server import LiveServer
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import make_config
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nimlite.server.app import create_app
from nimlite.server.state import ServerState

schema = schemathesis.openapi.from_dict(create_app(ServerState(make_config())).openapi())
OPENAI = {"message", "type", "param", "code"}
ANTHROPIC = {"message", "type"}
CONFORMS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@schema.parametrize()
@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
def test_generated_requests(
    case: schemathesis.Case, server: LiveServer, engine: ScriptedEngine
) -> None:
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "tiny"  # so that what else is in the body matters
    response = case.call(base_url=server.url)
    case.validate_response(response, checks=CONFORMS)
    has_deadline = "X-Request-Timeout" in case.headers
    assert response.status_code < 500 or (response.status_code == 504 and has_deadline)
    if response.status_code >= 400:
        error = response.json()["error"]
        is_anthropic = case.path.startswith("/v1/messages")
        assert set(error) == (ANTHROPIC if is_anthropic else OPENAI)
        assert error["message"]
        assert len(error["message"]) < 1000

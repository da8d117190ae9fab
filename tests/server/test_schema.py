"""Requests generated from the OpenAPI schema: never a 5xx, always the error object. `scripts/fuzz`
asks for more of them."""

import os

import schemathesis
from fakes.live_server import LiveServer
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import make_config
from hypothesis import HealthCheck, Phase, settings

from nimlite.server.app import create_app
from nimlite.server.state import ServerState

schema = schemathesis.openapi.from_dict(create_app(ServerState(make_config())).openapi())
OPENAI = {"message", "type", "param", "code"}
ANTHROPIC = {"message", "type"}


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
    assert response.status_code < 500
    if response.status_code >= 400:
        error = response.json()["error"]
        is_anthropic = case.path.startswith("/v1/messages")
        assert set(error) == (ANTHROPIC if is_anthropic else OPENAI)
        assert error["message"]
        assert len(error["message"]) < 1000

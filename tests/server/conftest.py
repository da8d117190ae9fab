"""A real server over a scripted engine."""

from collections.abc import Iterator

import httpx
import openai
import pytest
from fakes.live_server import LiveServer, live_server
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import EOS_ID, REPLY, encode, make_config, make_model
from fakes.tiny_tokenizer import save_tokenizer

from nimlite.server.state import ServerState
from nimlite.server.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="session")
def reply_ids(tokenizer: Tokenizer) -> list[int]:
    return list(encode(tokenizer, REPLY))


@pytest.fixture(scope="session")
def shared_engine(reply_ids: list[int]) -> ScriptedEngine:
    return ScriptedEngine(lambda request: [*reply_ids, EOS_ID], eos_id=EOS_ID)


@pytest.fixture(scope="session")
def server(shared_engine: ScriptedEngine, tokenizer: Tokenizer) -> Iterator[LiveServer]:
    state = ServerState(make_config())
    state.set_ready(make_model(shared_engine, tokenizer))
    with live_server(state) as running:
        yield running


@pytest.fixture
def engine(shared_engine: ScriptedEngine) -> Iterator[ScriptedEngine]:
    """The engine behind `server`, as new."""
    shared_engine.reset()
    yield shared_engine
    shared_engine.release()


@pytest.fixture
def client(server: LiveServer, engine: ScriptedEngine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(server: LiveServer, engine: ScriptedEngine) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client

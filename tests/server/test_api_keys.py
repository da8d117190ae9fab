"""API keys: who is let in, who is told what, and what of them can be seen."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from fakes.live_server import LiveServer, live_server
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import REPLY, make_config, make_model

from nimlite.cli.configuration import settings_json
from nimlite.errors import SettingError
from nimlite.server.api_keys import OPEN_PATHS, ApiKeys
from nimlite.server.state import ServerState
from nimlite.server.tokenizer import Tokenizer
from nimlite.settings import read_settings

FIRST, SECOND, WRONG = "first-key-of-this-server", "sk-0123456789abcdef", "a-key-of-another-one"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def keys_of(text: str) -> ApiKeys:
    return ApiKeys.read(read_settings({"NIM_API_KEY": text}).api_key, None, asked="")


@pytest.fixture(scope="module")
def locked(shared_engine: ScriptedEngine, tokenizer: Tokenizer) -> Iterator[LiveServer]:
    state = ServerState(make_config(keys=keys_of(f"{FIRST}, {SECOND}")))
    state.set_ready(make_model(shared_engine, tokenizer))
    with live_server(state) as running:
        yield running


@pytest.mark.parametrize("key", [FIRST, SECOND])
def test_each_key_is_let_in(locked: LiveServer, engine: ScriptedEngine, key: str) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=key, max_retries=0) as client:
        assert client.models.list().data[0].id == "tiny"
        assert client.chat.completions.create(**ASK).choices[0].message.content == REPLY
        stream = client.chat.completions.create(**ASK, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == REPLY


@pytest.mark.parametrize("key", [WRONG, FIRST[:-1], FIRST + "x", FIRST.upper()])
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_key_is_refused_and_not_repeated(
    locked: LiveServer, engine: ScriptedEngine, key: str, stream: bool
) -> None:
    with (
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key=key, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.chat.completions.create(**ASK, stream=stream)
    assert raised.value.body == {
        "message": "The API key is not one of this server's: send it as "
        "'Authorization: Bearer KEY'.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert not engine.requests


def test_without_a_key_all_but_the_open_paths_are_closed(locked: LiveServer) -> None:
    with httpx.Client(base_url=locked.url) as http:
        known = httpx.get(f"{locked.url}/openapi.json", headers={"X-Api-Key": FIRST}).json()
        for path, methods in known["paths"].items():
            for method in methods:
                status = http.request(method, path, json={}).status_code
                assert (status == 401) == (path not in OPEN_PATHS), path
        assert all(http.get(path).status_code == 200 for path in OPEN_PATHS)
        for path in ("/nothing", "/docs", "/openapi.json", "//v1/models", "/v1/health/live/"):
            assert http.get(path).status_code == 401
        refused = http.post("/v1/completions", content=b"x" * 3_000_000)
        assert "An API key is needed" in refused.json()["error"]["message"]
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.headers["X-Request-Id"]


def test_the_clients_of_anthropic_send_it_their_way(
    locked: LiveServer, engine: ScriptedEngine
) -> None:
    def ask(key: str) -> anthropic.types.Message:
        with anthropic.Anthropic(base_url=locked.url, api_key=key, max_retries=0) as client:
            return client.messages.create(**ASK, max_tokens=64)

    assert ask(SECOND).content[0].text == REPLY
    with pytest.raises(anthropic.AuthenticationError) as raised:
        ask(WRONG)
    assert raised.value.body["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"bearer  {FIRST}"}, 200),
        ({"Authorization": FIRST}, 401),
        ({"Authorization": f"Basic {FIRST}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": b"Bearer \xff\xfe"}, 401),
        ({"Authorization": "sha256:" + hashlib.sha256(FIRST.encode()).hexdigest()}, 401),
        ({"X-Api-Key": ""}, 401),
        ({"Authorization": f"Bearer {WRONG}", "X-Api-Key": FIRST}, 200),
    ],
)
def test_how_a_key_may_be_sent(
    locked: LiveServer, headers: dict[str, str | bytes], status: int
) -> None:
    assert httpx.get(f"{locked.url}/v1/models", headers=headers).status_code == status


def test_without_keys_any_key_will_do(client: openai.OpenAI) -> None:
    assert client.models.list().data[0].id == "tiny"


def test_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    digest = hashlib.sha256(SECOND.encode()).hexdigest()
    file.write_text(f"# of the team\n{FIRST}\n\n  sha256:{digest}  \n")
    keys = ApiKeys.read((), file, asked="")
    assert [keys.find(key.encode()) is not None for key in (FIRST, SECOND, WRONG, "", digest)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert FIRST not in repr(keys)
    file.write_text(f"{FIRST} weight=0.5  max_in_flight=8 tokens_per_minute=600\n")
    found = ApiKeys.read((), file, asked="").find(FIRST.encode())
    assert found is not None
    assert (found.weight, found.max_in_flight, found.tokens_per_minute) == (0.5, 8, 600)
    assert found.name == hashlib.sha256(FIRST.encode()).hexdigest()[:16]


def test_keys_that_can_not_be_used(tmp_path: Path) -> None:
    asked = "NIM_API_KEYS_FILE=keys"
    with pytest.raises(SettingError, match=f"{asked} can't be read: No such file"):
        ApiKeys.read((), tmp_path / "keys", asked=asked)
    file = tmp_path / "keys"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match=f"{asked} can't be read: it is not UTF-8"):
        ApiKeys.read((), file, asked=asked)
    file.write_text("# none yet\n")
    with pytest.raises(SettingError, match=f"{asked} holds no key: write one a line"):
        ApiKeys.read((), file, asked=asked)
    file.write_text(f"{FIRST}\ntwo keys in one line\n")
    with pytest.raises(SettingError, match=r"keys:2: no key. Allowed: 16 to 256") as raised:
        ApiKeys.read((), file, asked=asked)
    assert "two keys" not in str(raised.value)
    for behind, what in ((SECOND, "what stands behind the key"), ("weight=0", "the weight")):
        file.write_text(f"{FIRST} {behind}\n")
        with pytest.raises(SettingError, match=f"keys:1: {what} can't be used") as raised:
            ApiKeys.read((), file, asked=asked)
        assert "Allowed: weight=N, max_in_flight=N, tokens_per_minute=N" in str(raised.value)
        assert SECOND not in str(raised.value)


@pytest.mark.parametrize("key", ["short-secret", "a secret with spaces", "sha256:secret-no-hex"])
def test_a_key_that_is_none_is_refused_and_not_printed(key: str) -> None:
    for environ in ({"NIM_API_KEY": key}, {"NIM_PASSTHROUGH_ARGS": f"--api-key '{key}'"}):
        with pytest.raises(SettingError, match=r"can't be used. Allowed: 16 to 256") as raised:
            read_settings(environ)
        assert "secret" not in str(raised.value)


def test_what_config_prints_holds_no_key_and_reads_back(tmp_path: Path) -> None:
    settings = read_settings({"NIM_API_KEY": f"{FIRST},{SECOND}"})
    printed = json.dumps(settings_json(settings))
    assert FIRST not in printed + settings.named("api_key")
    file = tmp_path / "settings.json"
    file.write_text(printed)
    assert read_settings({"NIM_CONFIG_FILE": str(file)}).api_key == settings.api_key

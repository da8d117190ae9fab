"""CORS, as a browser asks for it, and the headers that every answer has."""

import socket

import httpx
import pytest
from fakes.live_server import LiveServer, live_server
from fakes.tiny_model import make_config

from nimlite.errors import SettingError
from nimlite.server.api_keys import ApiKeys
from nimlite.server.cors import Cors
from nimlite.server.state import ServerState
from nimlite.settings import read_settings

CHAT = "https://chat.example.com"
MAY_I = {
    "Origin": CHAT,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_it_is_closed_by_default(http: httpx.Client) -> None:
    assert Cors.of(read_settings({})) is None
    answers = (
        http.options("/v1/chat/completions", headers=MAY_I),
        http.get("/v1/models", headers={"Origin": CHAT}),
    )
    assert [answer.status_code for answer in answers] == [405, 200]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_named_origins_may_ask_with_a_key() -> None:
    cors = Cors.of(read_settings({"NIM_CORS_ALLOW_ORIGINS": f"{CHAT}, http://localhost:3000"}))
    keys = ApiKeys.read(
        read_settings({"NIM_API_KEY": "a-key-of-this-server"}).api_key, None, asked=""
    )
    state = ServerState(make_config(cors=cors, keys=keys))
    with live_server(state) as server, httpx.Client(base_url=server.url) as http:
        told = http.options("/v1/chat/completions", headers=MAY_I)
        assert told.status_code == 200
        assert told.headers["Access-Control-Allow-Origin"] == CHAT
        assert "POST" in told.headers["Access-Control-Allow-Methods"]
        assert "authorization" in told.headers["Access-Control-Allow-Headers"]
        assert told.headers["Access-Control-Max-Age"] == "600"
        assert "Access-Control-Allow-Credentials" not in told.headers
        refused = http.get("/v1/models", headers={"Origin": CHAT})  # the page can read why
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, CHAT)
        assert "X-Request-Id" in refused.headers["Access-Control-Expose-Headers"]
        other = http.options("/v1/models", headers=MAY_I | {"Origin": "https://example.com"})
        assert other.status_code == 400
        assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize(
    "origin", ["chat.example.com", f"{CHAT}/", "null", "https://*.com", "ftp://a"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(
        SettingError, match=r"NIM_CORS_ALLOW_ORIGINS=.* can't be used. Allowed: \*, or"
    ):
        read_settings({"NIM_CORS_ALLOW_ORIGINS": origin})


def test_options_without_an_origin_are_refused() -> None:
    settings = read_settings({"NIM_CORS_MAX_AGE": "60"})
    with pytest.raises(SettingError, match=r"MAX_AGE=60 has no use without NIM_CORS_ALLOW_ORIGINS"):
        Cors.of(settings)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/metrics", "/nothing"])
def test_headers_of_every_answer(http: httpx.Client, path: str) -> None:
    headers = http.get(path).headers
    assert headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers


def test_headers_of_what_is_no_request(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"nosniff" in answer.lower()

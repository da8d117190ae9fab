"""TLS and mTLS, with certificates that are made here, and what wrong files are answered with."""

import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
import trustme
from fakes.live_server import LiveServer, live_server
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import REPLY, make_config, make_model

from nimlite.errors import SettingError
from nimlite.server.state import ServerState
from nimlite.server.tls import tls_context
from nimlite.server.tokenizer import Tokenizer
from nimlite.settings import read_settings

HEALTHCHECK = Path(__file__).parents[2] / "container" / "bin" / "healthcheck"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of one authority, of a server's certificate, and of a client's."""

    ca: str
    certs: str
    key: str
    client: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


def make_files(directory: Path) -> Files:
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client@example.com")
    paths = Files(*(str(directory / name) for name in ("ca", "certs", "key", "client")))
    authority.cert_pem.write_to_path(paths.ca)
    server.private_key_pem.write_to_path(paths.key)
    client.private_key_and_cert_chain_pem.write_to_path(paths.client)
    for blob in server.cert_chain_pems:
        blob.write_to_path(paths.certs, append=True)
    return paths


def context_of(files: Files, mode: str) -> ssl.SSLContext | None:
    environ = {
        "NIM_SSL_MODE": mode,
        "NIM_SSL_KEY_PATH": files.key,
        "NIM_SSL_CA_CERTS_PATH": files.ca,
    }
    return tls_context(read_settings(environ | {"NIM_SSL_CERTS_PATH": files.certs}))


@pytest.fixture(scope="module", params=["TLS", "MTLS"])
def server(
    request: pytest.FixtureRequest,
    files: Files,
    shared_engine: ScriptedEngine,
    tokenizer: Tokenizer,
) -> Iterator[LiveServer]:
    state = ServerState(make_config(tls=context_of(files, request.param)))
    state.set_ready(make_model(shared_engine, tokenizer))
    with live_server(state) as running:
        yield running


def test_a_client_with_a_certificate_is_answered(
    server: LiveServer, files: Files, engine: ScriptedEngine
) -> None:
    trusting = ssl.create_default_context(cafile=files.ca)
    trusting.load_cert_chain(files.client)
    url = f"https://localhost:{server.port}/v1"
    with (
        httpx.Client(verify=trusting) as http,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0, http_client=http) as client,
    ):
        assert client.chat.completions.create(**ASK).choices[0].message.content == REPLY
        stream = client.chat.completions.create(**ASK, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == REPLY


def test_a_client_without_one_is_answered_but_by_mtls(server: LiveServer, files: Files) -> None:
    url = f"https://localhost:{server.port}/v1/models"
    trusting = ssl.create_default_context(cafile=files.ca)
    assert server.state.config.tls is not None
    if server.state.config.tls.verify_mode is ssl.CERT_NONE:
        assert httpx.get(url, verify=trusting).status_code == 200
    else:
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=trusting)


def test_a_certificate_of_another_authority_does_not_help(
    server: LiveServer, files: Files, tmp_path: Path
) -> None:
    trusting = ssl.create_default_context(cafile=files.ca)
    trusting.load_cert_chain(make_files(tmp_path).client)
    url = f"https://localhost:{server.port}/v1/models"
    assert server.state.config.tls is not None
    if server.state.config.tls.verify_mode is ssl.CERT_REQUIRED:
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=trusting)


@pytest.mark.parametrize("mode", ["", "TLS", "MTLS"])
def test_the_image_checks_its_health(server: LiveServer, mode: str) -> None:
    environ = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "NIM_SERVER_PORT": str(server.port),
        "NIM_SSL_MODE": mode,
    }
    assert server.state.config.tls is not None
    fits = mode == "MTLS" or (mode == "TLS" and not server.state.config.tls.verify_mode)
    found = subprocess.run(["sh", HEALTHCHECK], env=environ, capture_output=True, check=False)
    assert (found.returncode == 0) == fits


def test_plain_http_is_not_answered(server: LiveServer) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{server.port}/v1/health/live")


def test_old_versions_are_not_spoken(files: Files) -> None:
    context = context_of(files, "tls")
    assert context is not None
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context_of(files, "DISABLED") is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"MODE": "HTTPS"}, "NIM_SSL_MODE=HTTPS can't be used. Allowed: 'DISABLED', 'TLS' or"),
        ({"MODE": ""}, "NIM_SSL_CERTS_PATH={certs} has no use without NIM_SSL_MODE: set that to"),
        (
            {"KEY_PATH": "", "CERTS_PATH": ""},
            "NIM_SSL_MODE=MTLS needs NIM_SSL_CERTS_PATH and NIM_SSL_KEY_PATH: the path of a PEM",
        ),
        ({"CA_CERTS_PATH": ""}, "NIM_SSL_MODE=MTLS needs NIM_SSL_CA_CERTS_PATH: the path of"),
        ({"KEY_PATH": "/no/such"}, "NIM_SSL_KEY_PATH=/no/such can't be read: No such file or"),
        ({"CERTS_PATH": "/"}, "NIM_SSL_CERTS_PATH=/ can't be read: Is a directory."),
        ({"KEY_PATH": "{ca}"}, "NIM_SSL_KEY_PATH={ca} can't be used: a PEM file is expected, with"),
        ({"CERTS_PATH": "{key}"}, "CERTS_PATH={key} can't be used: a PEM file is expected, with a"),
        ({"KEY_PATH": "{client}"}, "can't be used together: the key is not the certificate's."),
        ({"KEY_PATH": "{locked}"}, "the key has a password. `openssl pkey -in KEY -out PLAIN`"),
        ({"KEY_PATH": "{torn}"}, "can't be used together: OpenSSL says "),
        ({"CA_CERTS_PATH": "{torn}"}, "NIM_SSL_CA_CERTS_PATH={torn} can't be used: OpenSSL says "),
    ],
)
def test_files_that_can_not_be_used(
    files: Files, tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    names = {name: getattr(files, name) for name in ("ca", "certs", "key", "client")}
    for name in ("locked", "torn"):
        names[name] = str(tmp_path / name)
    Path(names["locked"]).write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    Path(names["torn"]).write_text(
        "-----BEGIN PRIVATE KEY-----\nMII\n-----BEGIN CERTIFICATE-----\nMII\n"
    )
    given = {"MODE": "MTLS", "KEY_PATH": "{key}", "CERTS_PATH": "{certs}", "CA_CERTS_PATH": "{ca}"}
    environ = {f"NIM_SSL_{n}": text.format(**names) for n, text in (given | changes).items()}
    with pytest.raises(SettingError) as raised:
        tls_context(read_settings(environ))
    assert sentence.format(**names) in str(raised.value)

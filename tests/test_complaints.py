"""What people complain about with NVIDIA NIM, and why it can't happen here.

Numbered as in our collection of public issues: a full cache that does not help (3), silent
downloads (5), opaque errors (11), keys everywhere (12), an offline mode that calls out (13),
downloads that refuse (14), caches that can't be written (15), variables ignored in silence (19),
too many open files (20), connections cut in between (22), names that can't be found (23).
"""

import json
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.command import nimlite
from fakes.file_server import serve as serve_file
from fakes.hub_server import FILES, Hub, serve_hub
from fakes.llama_config import CONFIG
from fakes.nobody import nobody

from nimlite.errors import ArtifactError
from nimlite.observe.bars import LineProgress
from nimlite.probe.host import read_disk
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Artifact
from nimlite.server.config import ServerConfig
from nimlite.settings import default_cache_path, notices
from nimlite.store.cache import Store
from nimlite.store.model_store import create_model_store, read_model_store

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which hf:// leads to a hub of our own, with a model in it."""
    monkeypatch.setitem(FILES, "config.json", json.dumps(CONFIG).encode())
    Hub.authorizations.clear()
    with serve_hub() as endpoint:
        yield {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")}


def test_03_a_full_cache_is_enough_and_says_where_it_is(
    tmp_path: Path, hub: dict[str, str]
) -> None:
    cache = tmp_path / "cache"
    first = nimlite("download-to-cache", "hf://org/tiny", cache=cache, **hub)
    assert (first.returncode, first.stdout.startswith(str(cache))) == (0, True)
    warm = hub | {"HF_ENDPOINT": NOWHERE}
    again = nimlite("download-to-cache", "hf://org/tiny", cache=cache, **warm)
    assert (again.stdout, again.stderr) == (first.stdout, "")
    shown = json.loads(nimlite("config", "--json", cache=cache).stdout)["cache_path"]
    assert (shown["value"], shown["place"]) == (str(cache), "NIM_CACHE_PATH")


def test_05_a_download_tells_how_far_it_is(tmp_path: Path) -> None:
    lines: list[str] = []
    with serve_file(b"weights" * 200_000) as server:
        artifact = Artifact(uri=f"{server.url}/tiny.gguf")
        Store(tmp_path).fetch(artifact, LineProgress(lines.append))
    assert lines[0].startswith("Download tiny.gguf, 1.4 MB")
    assert lines[-1].startswith("Download tiny.gguf: done in")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["serve", "--model-profile", "vllm"], 2, "--model-profile=vllm names no profile of"),
        (["download-to-cache", "hf://org/gated"], 3, "Its licence must be accepted first"),
        (["download-to-cache", "hf://org/none"], 3, "There is no such repository, or it is priv"),
    ],
)
def test_11_an_error_says_what_is_wrong_and_never_exits_0(
    tmp_path: Path, hub: dict[str, str], arguments: list[str], code: int, sentence: str
) -> None:
    done = nimlite(*arguments, cache=tmp_path, **hub)
    assert done.returncode == code
    assert sentence in done.stderr
    assert ("could not be fetched" in done.stderr) == (code == 3)


def test_11_weights_that_are_not_read_are_refused_before_they_are_downloaded(
    tmp_path: Path, hub: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "hqq"}}
    monkeypatch.setitem(FILES, "config.json", json.dumps(config).encode())
    done = nimlite("serve", "hf://org/tiny", "--dry-run", cache=tmp_path, **hub)
    assert done.returncode != 0
    assert "holds weights quantized by 'hqq'. Read are AutoAWQ (gemm), GPTQ" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("key", [{}, {"NGC_API_KEY": "nvapi-secret", "HF_TOKEN": "hf_secret"}])
def test_12_no_key_is_needed_and_one_changes_nothing(tmp_path: Path, key: dict[str, str]) -> None:
    dry = nimlite("serve", "--dry-run", "--json", cache=tmp_path, NIM_OFFLINE="1", **key)
    assert dry.returncode == 0
    assert ("NGC_API_KEY has no effect: nimlite needs no key" in dry.stderr) == bool(key)
    assert "secret" not in dry.stdout + dry.stderr


def test_13_the_token_is_used_and_offline_asks_nobody(tmp_path: Path, hub: dict[str, str]) -> None:
    name = "hf://org/tiny"
    done = nimlite("download-to-cache", name, cache=tmp_path, HF_TOKEN="hf_secret", **hub)
    assert done.returncode == 0
    assert "Bearer hf_secret" in Hub.authorizations
    Hub.authorizations.clear()
    offline = hub | {"NIM_OFFLINE": "1", "HF_TOKEN": "hf_secret"}
    warm = nimlite("download-to-cache", name, cache=tmp_path, **offline)
    cold = nimlite("download-to-cache", name, cache=tmp_path / "empty", **offline)
    assert (warm.stdout, cold.returncode) == (done.stdout, 3)
    assert "the network is not to be used" in cold.stderr
    assert Hub.authorizations == []


def test_14_a_download_asks_for_no_gpu_and_no_profile(tmp_path: Path, hub: dict[str, str]) -> None:
    environ = hub | {"NIM_MACHINE": "broken-driver"}
    for flags in (["--all"], ["-p", "nimlite-bf16-tp1-pp1-cpu", "nimlite-fp32-tp1-pp1-cpu"]):
        done = nimlite("download-to-cache", "hf://org/tiny", *flags, cache=tmp_path, **environ)
        assert done.returncode == 0, done.stderr


def test_15_a_cache_that_can_only_be_read_serves_and_else_says_whose_it_is() -> None:
    progress = LineProgress(lambda line: None)
    with tempfile.TemporaryDirectory() as directory, serve_file(b"weights") as server:
        store = Store(Path(directory) / "cache")
        artifact = Artifact(uri=f"{server.url}/tiny.gguf")
        path = store.fetch(artifact, progress)
        folders = (Path(directory), *(p for p in Path(directory).rglob("*") if p.is_dir()))
        for folder in folders:
            folder.chmod(0o555)
        with nobody():
            uid = os.geteuid()
            assert store.fetch(artifact, progress) == path
            with pytest.raises(ArtifactError) as raised:
                store.fetch(Artifact(uri=f"{server.url}/other.gguf"), progress)
        assert f"This process runs as uid {uid}, and {store.root} belongs to" in str(raised.value)
        assert "set NIM_CACHE_PATH to a directory that is." in str(raised.value)
        for folder in folders:
            folder.chmod(0o755)


def test_15_any_user_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0)
        for value in (home, "/proc", "", "somewhere"):
            monkeypatch.setenv("XDG_CACHE_HOME", value)
            monkeypatch.setenv("HOME", "/proc")
            with nobody():
                assert default_cache_path().parent == Path(tempfile.gettempdir())
                assert read_disk(Path(home) / "models").total_bytes > 0
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert default_cache_path() == Path(tempfile.gettempdir()) / "nimlite-54321"


def test_19_a_variable_that_does_nothing_is_never_silent() -> None:
    sentences = notices(
        {
            "NIM_FORCE_TRUST_REMOTE_CODE": "1",
            "NIM_TOOL_PARSER_PLUGIN": "/plugin.py",
            "NIM_RELAX_MEM_CONSTRAINTS": "1",
            "NIM_KVCACHE_PERCENTAGE": "0.5",
        }
    )
    assert len(sentences) == 4
    assert sentences[-1].endswith("no such setting; did you mean NIM_KVCACHE_PERCENT?")


def test_20_a_model_of_many_files_opens_few_at_a_time(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for number in range(300):
        (source / f"model-{number:05}-of-00300.safetensors").write_text(str(number))
    manifest = load_manifest(profiles_directory() / "smollm2-135m.yaml")
    progress = LineProgress(lambda line: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 32, hard))
    try:
        home = create_model_store(manifest, source, tmp_path / "store", progress)
        stored = read_model_store(home)
        assert stored is not None
        assert Store(tmp_path / "cache").fetch(stored.artifact, progress) == home
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_22_idle_connections_outlive_those_of_clients() -> None:
    config = ServerConfig(served_model_names=("a",))
    # Pools of clients and proxies give up after 60 s; a shorter one here would cut them off. There
    # is no limit to how long an answer may take.
    assert config.keep_alive_s > 60


def test_23_a_wrong_profile_is_answered_by_all_right_ones(tmp_path: Path) -> None:
    wrong = nimlite("serve", "--dry-run", "-p", "tensorrt_llm-h100-fp8-tp2", cache=tmp_path)
    offered = [line.strip() for line in wrong.stderr.splitlines()[1:]]
    assert wrong.returncode == 2
    assert len(offered) > 3
    # As it is printed, with the name in brackets, and as list-model-profiles prints it.
    for pasted in (offered[-1], f"- {offered[-1]} [requires >=1.25 GiB of memory]"):
        right = nimlite("serve", "--dry-run", "--json", cache=tmp_path, NIM_MODEL_PROFILE=pasted)
        choice = json.loads(right.stdout)["choice"]
        assert f"{choice['id']} ({choice['name']})" == offered[-1]

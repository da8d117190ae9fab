"""The commands as users start them: a process, its output and its exit code."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.command import nimlite
from fakes.llama import random_llama

from nimlite.probe import Machine
from nimlite.store.digest import digest_files
from nimlite.store.receipt import Receipt


def test_probe(tmp_path: Path) -> None:
    machine = Machine.from_json(nimlite("probe", "--json", cache=tmp_path).stdout)
    assert machine.disk.path == str(tmp_path)
    people = nimlite("probe", cache=tmp_path)
    assert (people.returncode, people.stderr) == (0, "")
    assert machine.cpu.architecture in people.stdout


def test_a_machine_is_saved_and_asked_about(tmp_path: Path) -> None:
    saved = tmp_path / "machine.json"
    first = nimlite("probe", "--machine", "l4", "--save", str(saved), cache=tmp_path)
    again = nimlite("probe", "--machine", str(saved), cache=tmp_path)
    assert (first.returncode, again.returncode) == (0, 0)
    assert first.stdout == again.stdout
    assert "NVIDIA L4 (8.9, 27b8:10de)" in again.stdout


def test_what_fits_on_a_machine_that_is_not_here(tmp_path: Path) -> None:
    asked = ("list-model-profiles", "llama3-8b", "--memory", "--machine", "h200", "--json")
    held = {row["name"]: row for row in json.loads(nimlite(*asked, cache=tmp_path).stdout)}
    assert held["nimlite-bf16-tp1-pp1-gpu-throughput"]["sequences"]["131072"] == 6


def test_models(tmp_path: Path) -> None:
    rows = json.loads(nimlite("models", "--json", cache=tmp_path).stdout)
    found = {row["family"]: row for row in rows}
    assert found["gemma2"]["architectures"] == ["Gemma2ForCausalLM"]
    assert found["gemma2"]["about"].startswith("Gemma 2: ")
    assert "int4" in found["gemma2"]["precisions"]["cpu"] and found["gemma2"]["max_tp"] == 1
    people = nimlite("models", cache=tmp_path).stdout
    assert "Qwen3ForCausalLM" in people and "int8_wo" in people


def test_list_model_profiles(tmp_path: Path) -> None:
    listed = nimlite("list-model-profiles", "--json", cache=tmp_path)
    profiles = json.loads(listed.stdout)["profiles"]
    assert profiles[0]["name"] == "nimlite-int4-tp1-pp1-cpu"
    assert profiles[0]["reason"].startswith("Predicted on the CPU for ")
    people = nimlite("list-model-profiles", cache=tmp_path, COLUMNS="60").stdout
    # Whole, so that it can be copied.
    assert f"{profiles[0]['id']} ({profiles[0]['name']})" in people


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "sentence"),
    [
        (["serve", "nope"], {}, 2, "The model 'nope' is neither a path that exists nor a family"),
        (["serve", "--port", "0"], {}, 2, "--port=0 can't be used. Allowed: at least 1."),
        (["probe"], {"NIM_LOG_LEVEL": "loud"}, 2, "NIM_LOG_LEVEL=loud can't be used."),
        (["list-model-profiles", "--tags-selector", "tp=9"], {}, 2, "=tp=9 matches no profile"),
        (["download-to-cache"], {"NIM_OFFLINE": "1"}, 3, "the network is not to be used"),
        (["download-to-cache", "ftp://x"], {}, 2, "unknown source ftp://"),
        (["probe", "--machine", "h20"], {}, 2, "The machine 'h20' is neither a file nor one of"),
        (["probe", "--machine", "l4", "--measure"], {}, 2, "asks about another machine"),
        (["cache", "rm"], {}, 2, "Give either names, as `nimlite cache ls` shows them, or --all"),
        (["cache", "rm", "x"], {}, 2, "Nothing in the cache is named 'x'"),
        (["probe", "--cache-max-bytes", "0"], {}, 2, "--cache-max-bytes=0 can't be used. Allowed"),
        (["download-to-cache", "--lora"], {}, 2, "--lora: smollm2-135m has no profile with LoRA"),
        (["download-to-cache", "-p", "x", "y"], {}, 2, "=x names no profile of smollm2-135m."),
        (["download-to-cache", "-p", "a", "--all"], {}, 2, "--all and --profiles contradict each"),
        (["serve", "a", "--model", "b"], {}, 2, "MODEL=a and --model=b contradict each other"),
        (["serve", "--machine", "no.json"], {}, 2, "--machine=no.json asks about another machine"),
        (["run"], {}, 2, "give at least one --prompt TEXT"),
        (["build", "--dtype", "fp9"], {}, 2, "--precision=fp9 matches no profile"),
        (["convert", "--dtype", "fp9", "--out", "x"], {}, 2, "--precision=fp9 matches no profile"),
        (["convert"], {}, 2, "Missing option '--out'"),
        (["build", "--kv-cache-dtype", "int3"], {}, 2, "--kv-precision=int3 can't be used."),
        (["check"], {}, 2, "give the engine's directory, as `nimlite build` prints it"),
        (["check", "smollm2-135m"], {}, 2, "smollm2-135m is not an engine directory"),
        (["serv"], {}, 2, "No such command"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_an_exit_code(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], code: int, sentence: str
) -> None:
    done = nimlite(*arguments, cache=tmp_path, **environ)
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_dry_run_shows_everything_and_starts_nothing(tmp_path: Path) -> None:
    machine = tmp_path / "machine.json"
    machine.write_text(nimlite("probe", "--json", cache=tmp_path).stdout)
    cache = tmp_path / "cache"
    dry = nimlite(
        *("serve", "--dry-run", "--json", "--machine", str(machine), "--max-batch-size", "3"),
        cache=cache,
        NIM_MODEL_PROFILE="nimlite-bf16-tp1-pp1-cpu",
        NIM_OFFLINE="1",
    )
    assert (dry.returncode, dry.stderr) == (0, "")
    shown = json.loads(dry.stdout)
    assert shown["machine"] == json.loads(machine.read_text())
    assert shown["choice"]["name"] == "nimlite-bf16-tp1-pp1-cpu"
    assert shown["ranking"][0] == shown["choice"]
    assert shown["memory"]["kv_cache"] > 0
    settings = shown["settings"]
    assert settings["max_batch_size"]["value"] == 3
    assert settings["max_batch_size"]["place"] == "--max-batch-size"
    assert settings["max_model_len"] | {"manual": ""} == {
        "value": 8192,
        "origin": "profile",
        "place": None,
        "manual": "",
    }
    people = nimlite("serve", "--dry-run", "--machine", str(machine), cache=cache).stdout
    assert people.rstrip().endswith("Nothing was started: this was a dry run.")
    assert not cache.exists()


def test_config_shows_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "of the cluster.yaml"
    file.write_text("max_model_len: 4k\n")
    printed = nimlite("config", "--json", "--port", "81", "--config", str(file), cache=tmp_path)
    shown = json.loads(printed.stdout)
    assert {name: (row["value"], row["origin"], row["place"]) for name, row in shown.items()} | {
        "cache_path": (str(tmp_path), "environment", "NIM_CACHE_PATH"),
        "max_model_len": (4096, "config file", f"{file}:1: max_model_len"),
        "server_port": (81, "command line", "--port"),
        "max_batch_size": (None, "profile", None),
        "offline": (False, "default", None),
    } == {name: (row["value"], row["origin"], row["place"]) for name, row in shown.items()}
    people = nimlite("config", cache=tmp_path, COLUMNS="120").stdout
    assert "environment: NIM_CACHE_PATH" in people


def test_a_model_store_is_served_without_a_network(tmp_path: Path) -> None:
    random_llama(tmp_path)
    model = tmp_path / "checkpoint"
    environ = {"NIM_OFFLINE": "1", "PATH": str(tmp_path), "NIM_LOG_LEVEL": "ERROR"}
    made = nimlite(
        *("create-model-store", str(model), "-p", "nimlite-bf16-tp1-pp1-cpu", "-m"),
        *(str(tmp_path / "store"), "--json"),
        cache=tmp_path / "cache",
        **environ,
    )
    assert json.loads(made.stdout)["path"] == str(tmp_path / "store")
    shutil.rmtree(model)
    answer = nimlite(
        *("run", str(tmp_path / "store"), "--prompt", "a", "--max-tokens", "2", "--json"),
        cache=tmp_path / "cache",
        **environ,
    )
    assert len(json.loads(answer.stdout)[0]["token_ids"]) == 2


def test_what_can_not_be_cached_is_served_all_the_same(tmp_path: Path) -> None:
    random_llama(tmp_path)
    done = nimlite(
        *("run", str(tmp_path / "checkpoint"), "--prompt", "a", "--max-tokens", "2", "--json"),
        cache=Path("/sys/nimlite"),  # where even root makes no directory
        PATH=str(tmp_path),
    )
    assert len(json.loads(done.stdout)[0]["token_ids"]) == 2
    assert "The cache directory /sys/nimlite can't be written" in done.stderr
    [scratch] = re.findall(r"Until then (\S+) takes its place", done.stderr)
    assert not Path(scratch).exists()


def test_the_flags_of_tensorrt_llm_build_an_engine_that_runs(tmp_path: Path) -> None:
    random_llama(tmp_path)
    engine = tmp_path / "engine"
    environ = {"NIM_OFFLINE": "1", "PATH": str(tmp_path), "NIM_LOG_LEVEL": "ERROR"}
    converted = nimlite(
        *("convert", "--model_dir", str(tmp_path / "checkpoint"), "--dtype", "float32"),
        *("--tp_size", "1", "--pp_size", "1", "--kv_cache_dtype", "auto"),
        *("--output_dir", str(tmp_path / "converted"), "--json"),
        cache=tmp_path / "cache",
        **environ,
    )
    assert json.loads(converted.stdout)["precision"] == "fp32", converted.stderr
    built = nimlite(
        *("build", "--checkpoint_dir", str(tmp_path / "converted"), "--output_dir", str(engine)),
        *("--max_batch_size", "2"),
        *("--max_input_len", "64", "--max_seq_len", "128", "--json"),
        "--explain",
        cache=tmp_path / "cache",
        **environ,
    )
    assert json.loads(built.stdout)["path"] == str(engine), built.stderr
    passes = json.loads(built.stdout)["passes"]
    assert {"name", "changed", "saved"} == passes[0].keys()
    checked = nimlite("check", str(engine), "--json", cache=tmp_path / "cache", **environ)
    report = json.loads(checked.stdout)
    assert (report["passed"], report["reason"], checked.returncode) == (True, None, 0)
    assert report["quality"] == json.loads((engine / "engine.json").read_text())["quality"]
    as_built = (engine / "engine.json").read_text()
    damaged = json.loads(as_built)
    damaged["spec"]["norm_eps"] = 9.0
    (engine / "engine.json").write_text(json.dumps(damaged))
    failed = nimlite("check", str(engine), "--json", cache=tmp_path / "cache", **environ)
    assert (failed.returncode, json.loads(failed.stdout)["passed"]) == (4, False)
    assert "The engine (fp32) does not compute this model" in failed.stderr
    (engine / "engine.json").write_text(as_built)
    shutil.rmtree(tmp_path / "checkpoint")
    other = tmp_path / "other"
    random_llama(other, seed=1)
    wrong = ("check", str(engine), "--source", str(other / "checkpoint"))
    refused = nimlite(*wrong, cache=tmp_path / "cache", **environ)
    assert refused.returncode == 2
    assert f"{engine} was not made of this checkpoint" in refused.stderr
    answer = nimlite(
        *("run", str(engine), "--prompt", "a", "--max_tokens", "2", "--json"),
        cache=tmp_path / "cache",
        **environ,
    )
    assert len(json.loads(answer.stdout)[0]["token_ids"]) == 2
    plan = nimlite("serve", str(engine), "--dry-run", "--json", cache=tmp_path, **environ)
    assert json.loads(plan.stdout)["choice"]["name"] == "nimlite-fp32-tp1-pp1-cpu"


def test_the_cache_is_listed_verified_and_emptied(tmp_path: Path) -> None:
    home = tmp_path / "artifacts" / "org-tiny-1234"
    home.mkdir(parents=True)
    (home / "tiny.gguf").write_text("weights")
    Receipt("hf://org/tiny", digest_files(home, ["tiny.gguf"])).write(home)
    (listed,) = json.loads(nimlite("cache", "ls", "--json", cache=tmp_path).stdout)
    assert (listed["name"], listed["kind"], listed["in_use"]) == (home.name, "artifacts", False)
    assert home.name in nimlite("cache", "ls", cache=tmp_path).stdout
    assert ": 1 (0.0 MB), all whole" in nimlite("cache", "verify", cache=tmp_path).stdout
    (home / "tiny.gguf").write_text("weighty")
    verified = nimlite("cache", "verify", "--json", cache=tmp_path)
    assert verified.returncode == 3 and f"1 damaged in the cache {tmp_path}" in verified.stderr
    assert list(json.loads(verified.stdout)["damaged"]) == [str(home / "tiny.gguf")]
    removed = json.loads(nimlite("cache", "rm", "org", "--json", cache=tmp_path).stdout)
    assert removed == {"removed": [home.name], "kept": []}
    assert (
        nimlite("cache", "rm", "--all", cache=tmp_path).stdout == "There was nothing to remove.\n"
    )


@pytest.mark.parametrize(
    ("executable", "command"),
    [
        ("list-model-profiles", "list-model-profiles"),
        ("nim_list_model_profiles", "list-model-profiles"),
        ("download-to-cache", "download-to-cache"),
        ("create-model-store", "create-model-store"),
        ("download-model", "download-model"),
        ("check-cache-env", "check-cache-env"),
        ("nim_check_cache_env", "check-cache-env"),
        ("nim-serve", "serve"),
        ("nim-run", "serve"),
    ],
)
def test_nims_commands_are_executables(tmp_path: Path, executable: str, command: str) -> None:
    path = Path(__file__).parents[1] / "container" / "bin" / executable
    (tmp_path / "nimlite").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "nimlite").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([path, "-p", "a b"], env=environ, capture_output=True, text=True)
    assert done.stdout == f"{command} -p a b\n"


def test_the_cache_is_checked(tmp_path: Path) -> None:
    done = nimlite("check-cache-env", cache=tmp_path / "cache", HF_TOKEN="hf_secret")
    assert done.returncode == 0 and done.stderr == ""
    first, holds, network, token = done.stdout.splitlines()
    assert first.startswith(f"Cache: {tmp_path}/cache can be written; ")
    assert first.endswith(" GB free.")
    assert holds == "It holds 0 downloads, engines and kernels, 0.0 GB."
    assert network == "Network: used; hf:// is https://huggingface.co."
    assert token == "HF_TOKEN: set."
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "https://me:secret@mirror"}
    refused = nimlite("check-cache-env", "--json", cache=Path("/proc/cache"), **offline)
    data = json.loads(refused.stdout)
    assert (data["writable"], data["offline"], data["hf_token"]) == (False, True, False)
    assert data["hf_endpoint"] == "https://mirror"
    assert refused.returncode == 3
    assert "The cache directory /proc/cache can't be " in refused.stderr


def test_debugging_shows_where_an_error_came_from(tmp_path: Path) -> None:
    done = nimlite("serve", "nope", cache=tmp_path, NIM_LOG_LEVEL="debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_an_unknown_variable_is_warned_about(tmp_path: Path) -> None:
    done = nimlite("probe", cache=tmp_path, NIM_SERVER_PROT="1")
    assert "NIM_SERVER_PROT is set but nimlite has no such setting; did you mean" in done.stderr


def test_json_logs_are_not_interrupted(tmp_path: Path) -> None:
    done = nimlite("probe", "--json", cache=tmp_path, NIM_JSONL_LOGGING="1", NIM_QUUX="1")
    assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["WARNING"]
    json.loads(done.stdout)


def test_the_commands_do_not_import_torch() -> None:
    code = "import nimlite.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

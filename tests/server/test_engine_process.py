"""The server over an engine in a child process, asked by the real client."""

import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from fakes import child_engines
from fakes.driving import drive, request
from fakes.live_engine import HostServer
from fakes.live_server import running
from fakes.llama import Llama
from fakes.paced_engine import paced

from nimlite.build.tokenizer_files import byte_tokenizer
from nimlite.engine.process import EngineProcess
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.observe.bars import LineProgress

PROMPT = "What is 2+2?"
quiet = LineProgress(lambda line: None)


@pytest.fixture(scope="module")
def server(tiny: Llama, cache_dir: Path, library: object) -> Iterator[HostServer]:
    recipe = functools.partial(child_engines.tiny, tiny.home, cache_dir, {})
    process = EngineProcess.launch(recipe, quiet)
    vocab_size = process.facts["vocab_size"]
    with running(HostServer(process, tiny.tokenizer_directory, vocab_size)) as server:
        yield server


@pytest.fixture
def client(server: HostServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_answer_is_that_of_an_engine_at_hand(
    client: openai.OpenAI, tiny: Llama, kernels: CpuKernels
) -> None:
    ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40, "temperature": 0, "logprobs": 2}
    answer = client.completions.create(**ask)
    [whole] = answer.choices
    chunks = list(client.completions.create(**ask, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason
    streamed = [lp for chunk in chunks for lp in chunk.choices[0].logprobs.token_logprobs]
    assert streamed == whole.logprobs.token_logprobs
    alone = drive(tiny.engine(kernels), request("a", PROMPT.encode(), max_tokens=40))["a"]
    # Half a character at the end is not sent.
    assert byte_tokenizer().decode(alone.token_ids).rstrip("\ufffd") == whole.text.rstrip("\ufffd")
    assert answer.usage.completion_tokens == 40


def test_a_stop_string_ends_it_in_the_child_too(client: openai.OpenAI, server: HostServer) -> None:
    ask = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "extra_body": {"ignore_eos": True}}
    [whole] = client.completions.create(**ask, max_tokens=12).choices
    stop = whole.text[6:8]
    [cut] = client.completions.create(**ask, max_tokens=400, stop=stop).choices
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    client.completions.create(**ask, max_tokens=1)  # its step comes after the abort
    assert server.client.stats().num_running == 0


def test_a_grammar_is_followed_in_the_child(client: openai.OpenAI) -> None:
    ask = {"model": "tiny", "prompt": PROMPT, "temperature": 1.0, "max_tokens": 50}
    answer = client.completions.create(**ask, n=3, extra_body={"guided_regex": r"\d{3}-[a-f]{2}"})
    for choice in answer.choices:
        assert re.fullmatch(r"\d{3}-[a-f]{2}", choice.text)
        assert choice.finish_reason == "stop"
    with pytest.raises(openai.BadRequestError, match="at '#/items': 'not' is not supported here"):
        client.completions.create(**ask, extra_body={"guided_json": {"items": {"not": {}}}})
    assert client.completions.create(**ask).choices[0].text


def test_what_never_fits_is_refused_here(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context"):
        client.completions.create(model="tiny", prompt=PROMPT, max_tokens=600)


def test_a_killed_engine_ends_streams_with_an_error_and_flips_health(tiny: Llama) -> None:
    process = EngineProcess.launch(functools.partial(paced, 3600.0, (65,), 0.0), quiet)
    with running(HostServer(process, tiny.tokenizer_directory, 272)) as server:
        base = f"{server.url}/v1"
        with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client:
            assert httpx.get(f"{base}/health/ready").status_code == 200
            ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 9}
            stream = client.completions.create(**ask, stream=True)
            assert next(iter(stream)).choices[0].text == "A"
            waiting = threading.Thread(target=os.kill, args=(process.pid, signal.SIGKILL))
            waiting.start()
            with pytest.raises(openai.APIError, match="This answer is lost with it: ask"):
                list(stream)
            waiting.join()
            for path in ("live", "ready"):
                assert httpx.get(f"{base}/health/{path}").status_code == 503
            with pytest.raises(openai.APIStatusError, match="must be restarted") as raised:
                client.completions.create(**ask)
            assert (raised.value.status_code, raised.value.code) == (503, "engine_dead")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_drains_and_ends_both(tiny: Llama, sent: int) -> None:
    """As Ctrl-C sends it: the answer under way is finished, nobody shows a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join(path for path in sys.path if path)
    server = subprocess.Popen(
        [sys.executable, "-m", "fakes.serve_paced", str(port), str(tiny.tokenizer_directory)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with server, openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        assert server.stdout is not None
        child = next(int(line.split()[1]) for line in server.stdout if line.startswith("child "))
        while True:
            try:
                ready = httpx.get(f"http://127.0.0.1:{port}/v1/health/ready")
            except httpx.TransportError:
                continue
            if ready.status_code == 200:
                break
        ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40}
        stream = iter(client.completions.create(**ask, stream=True))
        text = next(stream).choices[0].text
        os.killpg(server.pid, sent)
        text += "".join(chunk.choices[0].text for chunk in stream)
        rest, _ = server.communicate(timeout=60)
    assert text == "A" * 40
    assert server.returncode == 0
    assert "Traceback" not in rest
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)

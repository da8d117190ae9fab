"""A server whose engine is killed: what its clients and its probes see, and that it comes back."""

import functools
import os
import signal
import threading

import httpx
import openai
import pytest
from fakes.live_engine import HostServer
from fakes.live_server import running
from fakes.llama import Llama
from fakes.paced_engine import paced

from nimlite.engine.client import EngineHost
from nimlite.engine.process import EngineProcess
from nimlite.engine.supervisor import Supervisor
from nimlite.observe.bars import LineProgress

ASK = {"model": "tiny", "prompt": "What is 2+2?", "max_tokens": 9}
quiet = LineProgress(lambda line: None)
slow = functools.partial(paced, 3600.0, (65,), 0.0)
fast = functools.partial(paced, 0.0, (66,), 0.0)


def test_a_kill_is_an_error_to_retry_and_then_all_is_well(tiny: Llama) -> None:
    first = EngineProcess.launch(slow, quiet)
    may_return = threading.Event()

    def restart() -> EngineHost:
        assert may_return.wait(60)
        return EngineProcess.launch(fast, quiet)

    host = Supervisor(first, restart, delays_s=[0.0])
    with (
        running(HostServer(host, tiny.tokenizer_directory, 272)) as server,
        httpx.Client(base_url=f"{server.url}/v1", timeout=60) as http,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.completions.create(**ASK, stream=True)
        assert next(iter(stream)).choices[0].text == "A"
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="ended by SIGKILL"):
            list(stream)
        refused = http.post("/completions", json=ASK)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert refused.json()["error"]["code"] == "not_ready"
        assert "It is being started again" in refused.json()["error"]["message"]
        assert http.get("/health/ready").status_code == 503
        assert http.get("/health/live").status_code == 200
        assert not http.get("/startup").json()["ready"]
        may_return.set()
        while http.get("/health/ready").status_code == 503:
            pass
        assert client.completions.create(**ASK).choices[0].text == "B" * 9
        assert 'engine_restarts_total{model_name="tiny"} 1.0' in http.get("/metrics").text

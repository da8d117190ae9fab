"""Models, metadata and metrics."""

import json
import re
from pathlib import Path

import httpx
import openai
import pytest
from fakes.scripted_engine import ScriptedEngine
from prometheus_client.parser import text_string_to_metric_families

from nimlite.engine.request import EngineStats

REPOSITORY = Path(__file__).parents[2]


def samples(http: httpx.Client) -> dict[tuple[str, str | None], float]:
    families = text_string_to_metric_families(http.get("/v1/metrics").text)
    return {
        (sample.name, sample.labels.get("finished_reason")): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("model_name") == "tiny"
    }


def test_models(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == ["tiny", "org/tiny"]
    assert client.models.retrieve("org/tiny").id == "org/tiny"
    assert listed[0].max_model_len == 256


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/metadata", "modelInfo"),
        ("/v1/manifest", "schema_version"),
        ("/v1/version", "release"),
        ("/v1/license", "server"),
    ],
)
def test_metadata(http: httpx.Client, path: str, key: str) -> None:
    assert http.get(path).json()[key]


def test_metrics_have_the_names_of_nim(client: openai.OpenAI, http: httpx.Client) -> None:
    before = samples(http)
    client.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=4)
    after = samples(http)

    def grown(name: str, reason: str | None = None) -> float:
        return after[name, reason] - before.get((name, reason), 0.0)

    assert grown("request_success_total") == 1
    assert grown("request_failure_total") == 0
    assert grown("request_finish_total", "length") == 1
    assert grown("request_prompt_tokens_sum") == 3
    assert grown("request_generation_tokens_sum") == 4
    for name in ("time_to_first_token", "time_per_output_token", "e2e_request_latency"):
        assert grown(f"{name}_seconds_count") == 1
    assert after["num_request_max", None] == 8


def test_metrics_read_the_engine_s_counts(http: httpx.Client, engine: ScriptedEngine) -> None:
    engine.current_stats = EngineStats(
        num_running=2,
        num_waiting=3,
        num_blocks=10,
        num_free_blocks=4,
        num_prompt_tokens=50,
        num_generated_tokens=60,
    )
    now = samples(http)
    assert now["num_requests_running", None] == 2
    assert now["num_requests_waiting", None] == 3
    assert now["gpu_cache_usage_perc", None] == pytest.approx(0.6)
    assert now["prompt_tokens_total", None] == 50
    assert now["generation_tokens_total", None] == 60
    assert "process_resident_memory_bytes" in http.get("/v1/metrics").text


def test_the_dashboard_reads_what_is_served(client: openai.OpenAI, http: httpx.Client) -> None:
    client.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=4)
    families = text_string_to_metric_families(http.get("/v1/metrics").text)
    served = {sample.name for family in families for sample in family.samples}
    board = json.loads((REPOSITORY / "container" / "grafana" / "nimlite.json").read_text())
    read = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", "", target["expr"])
            read |= set(re.findall(r"[a-z0-9_]*_[a-z0-9_]+", plain)) - {"histogram_quantile"}
    assert len(read) > 15
    assert read <= served

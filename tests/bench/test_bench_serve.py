"""`bench serve`: a real server with random weights, asked by clients in other processes."""

import dataclasses
import json
from pathlib import Path

import pytest

from nimlite.bench.chart import Point, Series, throughput_latency_svg
from nimlite.bench.client import Target
from nimlite.bench.clients import running_clients
from nimlite.bench.serve import (
    ServeCase,
    ServePoint,
    curve,
    read_offline,
    run_serve,
    serve_command,
    table,
    vocab_size,
    with_words,
)
from nimlite.errors import BenchmarkError, SettingError

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": 500,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}
CASE = ServeCase(num_prompt_tokens=12, num_output_tokens=6)


def test_points_are_measured_and_shown(
    tmp_path: Path, library: object, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(cache_dir)
    monkeypatch.setenv("NIM_CACHE_PATH", str(tmp_path / "cache"))
    points: list[ServePoint] = []
    with with_words(tmp_path) as directory:
        command = serve_command(directory, "bf16", 8, device="cpu")
        assert vocab_size(directory) == 500
        run_serve(
            command,
            CASE,
            [1, 3],
            points.append,
            vocab_size=500,
            num_clients=2,
            offline={(3, 12, 6): 1e6},
        )
    assert [point.measurement.workload.concurrency for point in points] == [1, 3]
    assert [point.measurement.num_output_tokens for point in points] == [6, 18]
    assert [point.measurement.num_prompt_tokens for point in points] == [12, 36]
    assert points[0].share is None
    assert 0 < points[1].share < 1
    line = json.loads(points[1].json_line())
    assert (line["n"], line["isl"], line["osl"], line["q"]) == (3, 12, 6, "bf16")
    # Every id has a text, so that every token could come alone.
    assert points[0].num_chunks <= 6
    assert [row.split()[0] for row in table(points).splitlines()] == ["clients", "1", "3"]
    drawn = curve([points[1], points[0], points[1]])
    assert [point.label for point in drawn] == ["1", "3"]


def test_offline_figures_are_found_by_precision_and_shape(tmp_path: Path) -> None:
    file = tmp_path / "offline.log"
    line = {"peer": "nimlite", "q": "bf16", "case": "bs256", "n": 256, "isl": 128, "osl": 256}
    noise = "loaded\n" + json.dumps(line | {"case": "serve", "out_tok_s": 1.0})
    file.write_text(f"{json.dumps(line | {'out_tok_s': 20000.0})}\n{noise}\n")
    assert read_offline(file, "bf16") == {(256, 128, 256): 20000.0}
    with pytest.raises(SettingError, match=r"no line of `nimlite bench offline` in fp8\.$"):
        read_offline(file, "fp8")


def test_a_client_that_fails_says_why() -> None:
    with running_clients(2) as clients, pytest.raises(BenchmarkError, match="Connect call failed"):
        clients.run(Target(port=1, model="any"), CASE.workload(2), [[1], [2]])


def test_a_picture_holds_every_point() -> None:
    points = tuple(Point(str(n), 5.0 + n / 50, 200.0 * n**0.8) for n in (1, 8, 64, 512))
    fp8 = tuple(dataclasses.replace(p, tok_s=p.tok_s * 1.4) for p in points)
    svg = throughput_latency_svg("A title", [Series("bf16", points), Series("fp8", fp8)])
    assert svg.count("<circle") == 8
    assert svg.count("<polyline") == 2
    for text in ("A title", ">512<", ">bf16<", ">fp8<"):
        assert text in svg

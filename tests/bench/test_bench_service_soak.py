"""The soak of a whole service passes a right one and sees what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.llama_config import CONFIG

from nimlite.bench.http_exchange import Answer
from nimlite.bench.serve import with_words
from nimlite.bench.server import Server
from nimlite.bench.service_soak import (
    Case,
    ServiceSoak,
    _Soak,
    run_service_soak,
    service_command,
)

ALONE = "four words in all"


@pytest.fixture
def judge() -> Iterator[_Soak]:
    yield _Soak(Server(service_command("m"), 1, None), Case())


def whole(text: str, num_tokens: int = 4) -> Answer:
    body = {"choices": [{"text": text}], "usage": {"completion_tokens": num_tokens}}
    headers = {"content-type": "application/json"}
    return Answer(200, headers, json.dumps(body).encode(), is_complete=True)


def stream(*events: object, is_complete: bool = True) -> Answer:
    lines = [event if event == "[DONE]" else json.dumps(event) for event in events]
    body = "".join(f"data: {line}\n\n" for line in lines).encode()
    return Answer(200, {"content-type": "text/event-stream"}, body, is_complete)


CHUNKS = [{"choices": [{"text": "four "}]}, {"choices": [{"text": "words"}]}]
USAGE = {"choices": [], "usage": {"completion_tokens": 4}}
LOST = {"error": {"code": "engine_dead", "message": "ask again"}}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (whole("four words"), "right (kind)"),
        (whole("four worlds"), "PROBLEM"),
        (whole("four words", num_tokens=3), "PROBLEM"),
        (stream(*CHUNKS, USAGE, "[DONE]"), "right (kind)"),
        (stream(*CHUNKS, USAGE, "[DONE]", is_complete=False), "PROBLEM"),
        (stream(*CHUNKS, USAGE), "PROBLEM"),
        (stream(*CHUNKS, LOST, "[DONE]"), "to be asked again"),
        (stream(*CHUNKS, {"error": {"code": None}}, "[DONE]"), "PROBLEM"),
        (Answer(503, {"retry-after": "2"}), "to be asked again"),
        (Answer(503), "PROBLEM"),
        (Answer(500, {"retry-after": "2"}), "PROBLEM"),
        (Answer(), "PROBLEM"),
    ],
)
def test_how_an_answer_is_judged(judge: _Soak, answer: Answer, outcome: str) -> None:
    assert judge._judge("kind", answer, ALONE, 4)[0] == outcome
    assert len(judge.problems) == (outcome == "PROBLEM")


def test_a_bad_request_must_be_refused(judge: _Soak) -> None:
    assert judge._judge_bad(Answer(400), (400,)) == "refused rightly"
    assert judge._judge_bad(Answer(503, {"retry-after": "1"}), (400,)) == "to be asked again"
    assert judge._judge_bad(Answer(200), (400,)) == "PROBLEM"
    assert judge._judge_bad(Answer(500), (400,)) == "PROBLEM"


def test_a_service_is_soaked_while_its_engine_is_killed(
    tmp_path: Path, library: object, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"max_position_embeddings": 4096}))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(cache_dir)
    monkeypatch.setenv("NIM_CACHE_PATH", str(tmp_path / "cache"))
    with with_words(tmp_path) as directory:
        command = service_command(str(directory), ("--random-weights", "--max-model-len=4096"))
        case = Case(seconds=3, clients=4, kill_every_s=1, repeats=(1, 3), longest=24)
        found = run_service_soak(command, case, None)
    assert found.problems == []
    assert len(found.engine_mib) >= 1
    assert found.outcomes["right (whole)"] and found.outcomes["refused rightly"]
    assert json.loads(found.json_line())["num_problems"] == 0
    assert "problems: 0" in str(found)


def test_lines_for_people() -> None:
    found = ServiceSoak(
        seconds=60.0,
        outcomes={"PROBLEM": 1, "cancelled": 2},
        problems=["whole: 500"],
        num_problems=1,
        recovery_s=[1.25],
        server_mib=(100.0, 101.0),
        engine_mib=[900.0],
    )
    assert str(found).splitlines() == [
        "3 requests in 60 s: 1 PROBLEM, 2 cancelled",
        "problems: 1",
        "  whole: 500",
        "seconds from each kill to ready: 1.2",
        "server: 100 MiB, then 101 MiB (+1.0 %); engines before their kills, MiB: 900",
    ]

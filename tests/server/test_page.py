"""The status page: its files, what they ask for, and what it shows of the plan."""

import re
from pathlib import Path

import httpx
import pytest

from nimlite.observe.status import plan_status
from nimlite.probe import Machine
from nimlite.profiles.load import load_manifest
from nimlite.profiles.selection import select
from nimlite.settings import Settings

REPOSITORY = Path(__file__).parents[2]
FILES = {
    "/": "text/html; charset=utf-8",
    "/page/page.js": "text/javascript; charset=utf-8",
    "/page/style.css": "text/css; charset=utf-8",
}


@pytest.mark.parametrize("path", FILES)
def test_its_files_may_ask_nobody_else(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.headers["Content-Type"] == FILES[path]
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for address in re.findall(r"(?:src|href)=\"([^\"]+)\"|url\(([^)]+)\)", response.text):
        assert "".join(address).startswith(("/", "data:"))


def test_its_script_finds_every_part_and_every_endpoint(http: httpx.Client) -> None:
    page, script = (http.get(path).text for path in ("/", "/page/page.js"))
    parts = set(re.findall(r"(?:find|new Plot)\(\"([\w-]+)\"", script))
    assert len(parts) > 20
    assert parts <= set(re.findall(r" id=\"([\w-]+)\"", page))
    asked = set(re.findall(r"\"(/v1/[\w/]+)\"", script))
    assert len(asked) == 4
    assert asked <= set(http.get("/openapi.json").json()["paths"])


def test_its_script_reads_metrics_that_are_served(http: httpx.Client) -> None:
    served = http.get("/v1/metrics").text
    script = http.get("/page/page.js").text
    names = re.findall(r"(?:now\.|grown\(\"|mean\(\")(\w+_\w+)", script)
    assert len(names) == 7
    assert [name for name in names if not re.search(rf"^{name}(_sum)?\b", served, re.M)] == []


def test_status(http: httpx.Client) -> None:
    status = http.get("/v1/status").json()
    assert (status["model"], status["draining"]) == ("tiny", False)


@pytest.mark.parametrize(("machine", "first"), [("h200", "NVIDIA H200"), ("a10", "NVIDIA A10")])
def test_the_plan_as_the_page_shows_it(machine: str, first: str) -> None:
    recorded = Machine.load(REPOSITORY / "profiles" / "machines" / f"{machine}.json")
    selection = select(load_manifest(REPOSITORY / "profiles/llama3-8b.yaml"), recorded, Settings())
    shown = plan_status(recorded, selection)
    assert shown["profile"] == selection.chosen.profile.name
    assert shown["machine"][0].startswith(first)
    parts = {part["name"]: part["bytes"] for part in shown["memory"]}
    assert parts["weights"] == selection.chosen.memory.weights
    assert "communication" not in parts
    assert len(shown["ranking"]) == len(selection.candidates) - 1

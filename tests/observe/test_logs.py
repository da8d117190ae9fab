"""Logging: one set-up, request ids, JSON lines."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from nimlite.observe.logs import setup_logging
from nimlite.settings import LogLevel


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def logged(level: LogLevel, *, jsonl: bool = False, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    setup_logging(level, jsonl=jsonl, console=console)
    log = logging.getLogger("nimlite.test")
    log.debug("detail")
    log.info("one %s", "line", extra={"request_id": "r-1"})
    try:
        raise KeyError("lost")
    except KeyError:
        log.exception("failed")
    return stream.getvalue()


def test_plain_lines() -> None:
    first, *rest = logged(LogLevel.DEFAULT).splitlines()
    assert first.endswith("INFO nimlite.test: one line [r-1]")
    assert rest[-1] == "KeyError: 'lost'"


def test_terminal_lines() -> None:
    assert "one line [r-1]" in logged(LogLevel.INFO, terminal=True)


def test_json_lines() -> None:
    first, second = map(json.loads, logged(LogLevel.INFO, jsonl=True).splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "INFO",
        "logger": "nimlite.test",
        "message": "one line",
        "request_id": "r-1",
    }
    assert second["exception"].endswith("KeyError: 'lost'")


@pytest.mark.parametrize(
    ("level", "debug", "info"),
    [
        (LogLevel.TRACE, True, True),
        (LogLevel.DEBUG, True, True),
        (LogLevel.DEFAULT, False, True),
        (LogLevel.ERROR, False, False),
    ],
)
def test_levels(level: LogLevel, debug: bool, info: bool) -> None:
    text = logged(level)
    assert ("detail" in text, "one line" in text) == (debug, info)
    assert "failed" in text

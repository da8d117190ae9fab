"""Items whose processes fail."""

import os
import threading

from nimlite.bench.apart import run_apart


def work(name: str) -> int:
    if name == "exit":
        os._exit(3)
    if name == "hang":
        threading.Event().wait()
    return int(name)


def test_items_after_a_failure_are_done() -> None:
    found = {done.name: done for done in run_apart(work, ["1", "exit", "x", "2"], seconds=60)}
    assert {name: done.result for name, done in found.items()} == {
        "1": 1,
        "exit": None,
        "x": None,
        "2": 2,
    }
    assert found["exit"].failure == "its process ended with 3"
    assert found["x"].failure == "ValueError: invalid literal for int() with base 10: 'x'"


def test_an_item_that_takes_too_long_is_ended() -> None:
    (done,) = run_apart(work, ["hang"], seconds=0.1)
    assert done.failure == "took longer than 0 s"

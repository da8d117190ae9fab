import time

import pytest

from nimlite.server.startup import Phase


def test_the_time_that_is_left_follows_from_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 110.0)
    phase = Phase("Download tiny.gguf", 400e6, "B", started=100.0)
    assert phase.seconds_left is None
    phase.advance(100e6)
    told = phase.as_json()
    assert (told["percent"], told["seconds"], told["seconds_left"]) == (25, 10, 30)
    phase.state = "done"
    assert phase.as_json()["seconds_left"] is None
    assert Phase("Seal", None, "", done=1, started=100.0).seconds_left is None

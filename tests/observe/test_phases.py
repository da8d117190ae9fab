from nimlite.observe.phases import Phase, PhaseLog
from nimlite.observe.progress import SILENT


def test_phases_are_timed_and_ordered_by_their_beginning() -> None:
    ticks = iter([11.0, 12.5, 13.0, 17.25, 18.0])
    log = PhaseLog(SILENT, 10.0, clock=lambda: next(ticks))
    with log.task("Read", 100), log.task("Compile", None, "") as task:
        task.advance(1)
    assert log.phases == (Phase("Read", 1.0, 7.25), Phase("Compile", 2.5, 3.0))
    assert log.table().splitlines() == [
        "        at       took",
        "    1.00 s     6.25 s  Read",
        "    2.50 s     0.50 s  Compile",
        "    8.00 s  ready",
    ]


def test_a_phase_that_fails_is_left_out() -> None:
    log = PhaseLog(SILENT, 0.0, clock=lambda: 1.0)
    try:
        with log.task("Read", None):
            raise OSError
    except OSError:
        assert log.phases == ()

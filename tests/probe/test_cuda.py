"""The CUDA child: what it says with a driver that works, that fails, and that is not there."""

from uuid import UUID

import pytest
from fakes.nvml import MIB

from nimlite.probe.child import ask_child, script
from nimlite.probe.cuda import CudaError, LibCuda, read_devices


class FakeDriver:
    """`failing`: the call that fails, with its code."""

    def __init__(self, count: int = 1, failing: str = "", code: int = 999) -> None:
        self._count, self._failing, self._code = count, failing, code

    def _try(self, call: str) -> None:
        if call == self._failing:
            raise CudaError(call, self._code)

    def count(self) -> int:
        self._try("count")
        return self._count

    def uuid(self, device: int) -> str:
        return str(UUID(int=device))

    def bus_id(self, device: int) -> str:
        return f"0000:0{device}:00.0"

    def attribute(self, device: int, attribute: int) -> int:
        return {16: 48, 18: 1, 100: 0}[attribute]

    def memory(self, device: int) -> tuple[int, int]:
        self._try("memory")
        return 100 * MIB, 200 * MIB


def test_a_device_that_shares_the_hosts_memory() -> None:
    (device,) = read_devices(FakeDriver())["devices"]
    assert device == {
        "uuid": str(UUID(int=0)),
        "bus_id": "0000:00:00.0",
        "free_bytes": 100 * MIB,
        "total_bytes": 200 * MIB,
        "integrated": True,
        "coherent": False,
        "multiprocessors": 48,
    }


def test_a_device_that_lets_nobody_in() -> None:
    answer = read_devices(FakeDriver(2, failing="memory"))
    assert [d["problem"] for d in answer["devices"]] == ["memory failed with CUDA error 999"] * 2


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (100, {"devices": []}),
        (802, {"problem": "CUDA does not start: count failed with CUDA error 802."}),
    ],
)
def test_no_device(code: int, answer: dict[str, object]) -> None:
    assert read_devices(FakeDriver(failing="count", code=code)) == answer


def test_the_library_itself_answers_or_is_missing() -> None:
    try:
        LibCuda()
    except OSError:
        answer, problem = ask_child(script("cuda.py"), "CUDA")
        assert answer == {}
        assert str(problem).startswith("CUDA's driver library can't be loaded: libcuda.so.1")
    else:
        assert read_devices(LibCuda())

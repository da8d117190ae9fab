"""What CUDA itself shows to this process. Run as a script, in a child: one JSON object on stdout.

Slower than NVML, and it takes memory on the card while it runs; but it alone knows CUDA's order of
unlike cards, what a MIG slice has free where NVML may not say, and unified memory. It speaks to the
driver's library by ctypes, so it needs no torch, and imports nothing of nimlite.
"""

import ctypes
import json
import sys
from typing import Any, Protocol
from uuid import UUID

_INTEGRATED, _MULTIPROCESSORS, _COHERENT = 18, 16, 100
"""CU_DEVICE_ATTRIBUTE_…; the last: PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES."""
_NO_DEVICE = 100


class CudaError(Exception):
    """A call that did not succeed; the code is CUDA's."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call} failed with CUDA error {code}")
        self.code = code


class Driver(Protocol):
    """The few things that are asked; a test's stand-in has them too. Each raises CudaError."""

    def count(self) -> int: ...
    def uuid(self, device: int) -> str: ...
    def bus_id(self, device: int) -> str: ...
    def attribute(self, device: int, attribute: int) -> int: ...
    def memory(self, device: int) -> tuple[int, int]:
        """(free, total)"""


def read_devices(driver: Driver) -> dict[str, Any]:
    """The devices in CUDA's order, or a `problem`."""
    try:
        count = driver.count()
    except CudaError as error:
        if error.code == _NO_DEVICE:
            return {"devices": []}
        return {"problem": f"CUDA does not start: {error}."}
    return {"devices": [_device(driver, index) for index in range(count)]}


def _device(driver: Driver, index: int) -> dict[str, Any]:
    found: dict[str, Any] = {"uuid": driver.uuid(index), "bus_id": driver.bus_id(index)}
    try:
        found["free_bytes"], found["total_bytes"] = driver.memory(index)
        found["integrated"] = bool(driver.attribute(index, _INTEGRATED))
        found["coherent"] = bool(driver.attribute(index, _COHERENT))
        found["multiprocessors"] = driver.attribute(index, _MULTIPROCESSORS)
    except CudaError as error:
        found["problem"] = str(error)
    return found


class LibCuda:
    """libcuda.so by ctypes. Raises OSError where there is none."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise CudaError(name, code)

    def count(self) -> int:
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def uuid(self, device: int) -> str:
        raw = (ctypes.c_ubyte * 16)()
        self._call("cuDeviceGetUuid_v2", raw, device)
        # A slice's identifier is its own; the prefix is NVML's way to say so.
        return str(UUID(bytes=bytes(raw)))

    def bus_id(self, device: int) -> str:
        text = ctypes.create_string_buffer(32)
        self._call("cuDeviceGetPCIBusId", text, 32, device)
        return text.value.decode()

    def attribute(self, device: int, attribute: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        return value.value

    def memory(self, device: int) -> tuple[int, int]:
        context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        self._call("cuDevicePrimaryCtxRelease_v2", device)
        return free.value, total.value


def ask_cuda() -> dict[str, Any]:
    """All answers, or the `problem` that kept them away."""
    try:
        driver = LibCuda()
    except OSError as error:
        return {"problem": f"CUDA's driver library can't be loaded: {error}."}
    return read_devices(driver)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask_cuda()))

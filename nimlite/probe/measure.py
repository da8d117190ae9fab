"""How fast this machine's memory and arithmetic really are. Run as a script, in a child.

Prints one JSON object: of each GPU by UUID, and of the host, bytes/s and FLOP/s. It imports torch,
and nothing of nimlite. A few seconds a GPU; the buffers take a quarter of what is free at most.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

_MATRIX = 8192
_REPEATS = 10
_HOST_BYTES = 256 << 20


def measure() -> dict[str, Any]:
    """All rates, or a `problem`."""
    try:
        import torch
    except ImportError:
        return {"problem": "torch is not installed, so nothing can be measured."}
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "gpus": dict(_measure_gpu(torch, index) for index in range(count)),
        "memory_bandwidth": _host_bandwidth(torch),
    }


def _host_bandwidth(torch: Any) -> float:
    """Bytes/s read, by all threads of torch: decoding reads the weights once a token."""
    values = torch.ones(_HOST_BYTES // 4)
    return _HOST_BYTES / min(_seconds(values.sum) for _ in range(_REPEATS))


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _measure_gpu(torch: Any, index: int) -> tuple[str, dict[str, Any]]:
    torch.cuda.set_device(index)
    free, _ = torch.cuda.mem_get_info()
    bandwidth = gpu_bandwidth(torch, min(2 << 30, free // 8) // 1024 * 1024)
    n = _MATRIX
    while 3 * 4 * n * n > free // 4:
        n //= 2
    flops = {}
    for precision, product in _products(torch, n).items():
        try:
            flops[precision] = 2 * n**3 / gpu_seconds(torch, product)
        except RuntimeError:
            continue  # this card, or this torch, has no such product
    uuid = str(torch.cuda.get_device_properties(index).uuid)
    return uuid, {"memory_bandwidth": bandwidth, "flops": flops}


def gpu_bandwidth(torch: Any, size: int) -> float:
    """Bytes/s of the faster of a copy, which reads and writes, and a sum, which reads."""
    source = torch.ones(size // 4, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * size / gpu_seconds(torch, lambda: target.copy_(source))
    return max(copy, size / gpu_seconds(torch, source.sum))


def _products(torch: Any, n: int) -> dict[str, Callable[[], object]]:
    """An n×n matrix product by precision. Random values: zeros draw less power and run faster."""
    a, b = (torch.randn(n, n, device="cuda") for _ in range(2))

    def dense(dtype: Any) -> Callable[[], object]:
        left, right = a.to(dtype), b.to(dtype)
        return lambda: left @ right

    products = {"fp32": dense(torch.float32), "fp16": dense(torch.float16)}
    capability = torch.cuda.get_device_capability()
    if capability >= (8, 0):
        products["bf16"] = dense(torch.bfloat16)
    if capability >= (7, 5):
        a_int8, b_int8 = (m.mul(40).clamp(-127, 127).to(torch.int8) for m in (a, b))
        products["int8"] = lambda: torch._int_mm(a_int8, b_int8.t())
    if capability >= (8, 9):
        a_fp8, b_fp8 = (m.to(torch.float8_e4m3fn) for m in (a, b))
        one = torch.ones((), device="cuda")
        products["fp8"] = lambda: torch._scaled_mm(
            a_fp8, b_fp8.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
        )
    return products


def gpu_seconds(torch: Any, function: Callable[[], object]) -> float:
    """The mean of ten runs after three."""
    for _ in range(3):
        function()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_REPEATS):
        function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / _REPEATS


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure()))

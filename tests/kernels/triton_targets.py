"""Compile the kernels for a GPU that is not here: writes what each takes, as JSON lines.

Usage: triton_targets.py CAPABILITY (such as 90) SHARED_BYTES. Launches go through the host
functions as on that GPU, and end at the compiler.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from nimlite.kernels.base import Batch, Experts, KVLayout
from nimlite.kernels.triton import (
    activation,
    argmax,
    dequantize,
    elementwise,
    linear,
    moe,
    norm,
    product,
    rope,
    sample,
    token_mask,
    weight_only,
    weights,
)
from nimlite.kernels.triton.attention_decode import DecodeConfig, DecodeWorkspace, attention_decode
from nimlite.kernels.triton.attention_prefill import PrefillConfig, attention_prefill
from nimlite.kernels.triton.device import Device
from nimlite.kernels.triton.scaled_rows import FP8, quantize_rows

CPU = torch.device("cpu")
PRODUCTS = ("_linear", "_weight_only")


class Target:
    """What Triton asks of a driver before it launches."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def report(name: str, compiled: Any) -> None:
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [cuobjdump, "--dump-resource-usage", file.name], capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    taken = {
        "kernel": name,
        "registers": int(found[1]),
        "stack": int(found[2]),
        "shared": compiled.metadata.shared,
        "serialized": name in PRODUCTS and is_serialized(compiled.asm["ptx"]),
        "tensor_cores": bool(re.search(r"wgmma|mma\.sync|tcgen05", compiled.asm["ptx"])),
    }
    sys.stdout.write(json.dumps(taken) + "\n")


def is_serialized(ptx: str) -> bool:
    """Whether each wgmma waits for the one before: then the compiler says so."""
    if "wgmma" not in ptx:
        return False
    ptxas = get_ptxas(90).path
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ptxas, "-v", "-arch=sm_90a", file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return "serialized" in done.stderr + done.stdout


def stop_at_the_compiler() -> None:
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        report(self.fn.__name__, run(self, *args, grid=grid, warmup=True, **options))

    JITFunction.run = compile_only


def launch_all(device: Device) -> None:
    dtype = torch.bfloat16 if device.has_bf16 else torch.float16

    def ints(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int32)

    batch = Batch(ints(64), ints(64), ints(64), ints(33), ints(32), ints(32, 9), ints(32))
    qkv, x = torch.zeros(64, 48 * 128, dtype=dtype), torch.zeros(64, 4096, dtype=dtype)
    for kv_dtype in [dtype, FP8] if device.has_fp8 else [dtype]:
        layout = KVLayout(9, 64, 8, 128, kv_dtype)
        kv, o = torch.zeros((2, 9, 8, 64, 128), dtype=kv_dtype), torch.zeros_like(x)
        for num_sequences in (1, 100, 1000):
            decode = DecodeConfig.default(layout, device, num_sequences)
            programs = decode.num_programs(layout, device)
            workspace = DecodeWorkspace.allocate(layout, 32, 64, programs, CPU)
            attention_decode(qkv, kv, batch, layout, o, 1.0, decode, workspace, device)
        prefill = PrefillConfig.default(layout, device)
        attention_prefill(qkv, kv, batch, layout, o, 1.0, prefill, device, max_sequences=64)
        rope.rope_and_cache(qkv, torch.zeros(99, 128), kv, batch, layout, device)
        slopes = torch.zeros(32)
        decode = DecodeConfig.default(layout, device, 100)
        bent: Any
        bias = torch.zeros(32, 257)
        for bent in ({"window": 100, "soft_cap": 5.0}, {"slopes_H": slopes}, {"bias_HP": bias}):
            common: Any = (qkv, kv, batch, layout, o, 1.0)
            attention_decode(*common, decode, workspace, device, **bent)
            attention_prefill(*common, prefill, device, max_sequences=64, **bent)
        for all_seen in ({}, {"bias_HP": bias}):
            options = {"max_sequences": 64, "causal": False, **all_seen}
            attention_prefill(*common, prefill, device, **options)
        elementwise.norm_heads(qkv, slopes, slopes, 1e-5, layout, device)
    norm.add_rms_norm(x, x.clone(), x[0], 1e-5, device)
    norm.add_layer_norm(x, x.clone(), x[0], x[0], 1e-5, device)
    activation.gated_activation(x, "silu", device)
    activation.plain_activation(x, "gelu", device)
    elementwise.add(x.clone(), x, device, batch.positions_T)
    elementwise.limit(x.clone(), 5.0, device, soft=True)
    argmax.argmax(x, ints(64), device)
    row = torch.zeros(64)
    inputs = sample.SamplingInputs(row, ints(64), row, row, row)
    sample.sample(x, inputs, ints(64), device)
    token_mask.forbid(torch.zeros(64, 4096), ints(8), ints(8, 128), device)
    scheme = weights.BF16_ROWS if device.has_bf16 else weights.FP16_ROWS
    room = linear.LinearWorkspace.allocate(CPU)
    for one in [scheme, *SCALED] if device.has_fp8 else [scheme]:
        weight = one.pack(torch.zeros(1024, 4096))
        for num_rows in (1, 16):
            config = product.candidates(num_rows, weight, room, device)[0]
            rows = prepared(x[:num_rows], one, device)
            linear.linear(rows, weight, None, config, room, device, dtype)
        rows = prepared(x, one, device)
        for config in product.candidates(64, weight, room, device, sums=False):
            if config.descriptors and config.split == 2:
                linear.linear(rows, weight, None, config, room, device, dtype, sums=False)
    words = (weights.W4A16, weights.W8A16) if device.has_bf16 else ()
    for one in (scheme, *words, *(SCALED if device.has_fp8 else ())):
        up, down = one.pack(torch.zeros(8 * 256, 512)), one.pack(torch.zeros(8 * 512, 128))
        experts = Experts(up, down, 8, 2, True, "silu")
        for num_rows in (1, 64, 512) if one is scheme else (64,):
            x_TD, router_TE = torch.zeros(num_rows, 512, dtype=dtype), torch.zeros(num_rows, 8)
            moe.moe(x_TD, router_TE, experts, device)
    weight, rows = weights.INT8_ROWS.pack(torch.zeros(1024, 512)), torch.zeros(512, 512)
    if device.has_bf16:
        rows = prepared(rows.bfloat16(), weights.INT8_ROWS, device)
        for config in product.candidates(512, weight, room, device):
            linear.linear(rows, weight, None, config, room, device, dtype)
        launch_weight_only(device, room)


SCALED = (weights.FP8_ROWS, weights.INT8_ROWS)


def prepared(x: torch.Tensor, scheme: Any, device: Device) -> Any:
    return quantize_rows(x, scheme.dtype, device) if scheme in SCALED else x


def launch_weight_only(device: Device, room: linear.LinearWorkspace) -> None:
    for scheme in (weights.W4A16, weights.W8A16):
        weight = scheme.pack(torch.zeros(28672, 512))
        kinds = set()
        for num_rows in (1, 16, 64, 512):
            x = torch.zeros(num_rows, 512, dtype=torch.bfloat16)
            for config in product.candidates(num_rows, weight, room, device):
                # of one row in integers one with two stages and one with one
                shape = (config.block_n, config.block_c, config.num_warps)
                kind = (num_rows > 16, *((config.num_stages,) if config.vector else shape))
                if kind not in kinds and config.split == 1:
                    kinds.add(kind)
                    rest = (config, room, device, torch.bfloat16)
                    weight_only.weight_only_linear(x, weight, None, *rest)
        dequantize.dequantize(weight, torch.bfloat16, device)
        # columns that fill no block, in groups of 64
        weight = scheme.pack(torch.zeros(1024, 576))
        for num_rows in (1, 64):
            x = torch.zeros(num_rows, 576, dtype=torch.bfloat16)
            config = product.candidates(num_rows, weight, room, device)[0]
            rest = (config, room, device, torch.bfloat16)
            weight_only.weight_only_linear(x, weight, None, *rest)


if __name__ == "__main__":
    capability, shared_bytes = int(sys.argv[1]), int(sys.argv[2])
    driver.set_active(Target(capability))
    stop_at_the_compiler()
    launch_all(Device(divmod(capability, 10), 132, shared_bytes, capability >= 90))

"""What people read about a machine."""

import io
from dataclasses import replace

from rich.console import Console

from nimlite.observe.tables import machine_table
from nimlite.probe.machine import GpuProcess, HiddenGpu, Machine


def printed(machine: Machine | str) -> str:
    known = Machine.load(machine) if isinstance(machine, str) else machine
    text = io.StringIO()
    Console(width=400, file=text).print(machine_table(known))
    return text.getvalue()


def test_a_board_says_the_rates_of_its_cards_once_and_alike_links_in_one_line() -> None:
    text = printed("h200-x8")
    assert text.count("GPU 7") == 1
    assert text.count("4800 GB/s, fp32 67 TFLOP/s") == 1
    assert "all pairs: 18 NVLinks, 450 GB/s one way, P2P yes" in text


def test_bridged_pairs() -> None:
    text = printed("a100-80-pcie-x4")
    assert "0-1, 2-3: 12 NVLinks, 300 GB/s one way, P2P yes" in text
    assert "0-2, 0-3, 1-2, 1-3: PCIe NODE, 32 GB/s one way, P2P yes" in text


def test_a_slice_and_unified_memory() -> None:
    assert (
        "NVIDIA A100-SXM4-40GB, MIG slice 1g.5gb (8.0, 20b0:10de), 4.72 GiB of 4.75 GiB free"
        in (printed("a100-40-1g.5gb"))
    )
    assert "112.22 GiB of 119.70 GiB free of the host's memory" in printed("gb10")


def test_what_is_hidden_measured_and_noted() -> None:
    machine = Machine.load("l4")
    gpu = replace(
        machine.gpus[0],
        measured_bandwidth=2.5e11,
        measured_flops={"bf16": 9e13},
        processes=(GpuProcess(pid=5, used_bytes=1 << 30), GpuProcess(pid=6)),
    )
    hidden = HiddenGpu(name="[X]", uuid="GPU-x", reason="CUDA_VISIBLE_DEVICES=0 leaves it out.")
    text = printed(replace(machine, gpus=(gpu,), hidden_gpus=(hidden,), notes=("Odd [sic].",)))
    for line in (
        "measured: 250 GB/s, bf16 90 TFLOP/s",
        "process 5 holds 1.00 GiB",
        "process 6 holds an unknown amount",
        "[X] (GPU-x): CUDA_VISIBLE_DEVICES=0 leaves it out.",
        "Odd [sic].",
    ):
        assert line in text


def test_no_gpu_says_why() -> None:
    assert "none: There is no NVIDIA driver on this machine." in printed("cpu-small")

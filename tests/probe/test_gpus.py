"""From the children's answers to the machine's GPUs: order, hidden ones, slices, memory, links."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.nvml import MIB, Card, FakeNvml, Slice
from hypothesis import given
from hypothesis import strategies as st

from nimlite.probe import gpus
from nimlite.probe.answers import Host
from nimlite.probe.gpus import Found, assemble, find_gpus, needs_cuda
from nimlite.probe.nvml import read_machine

GIB = 1 << 30
H200 = Card()
RTX_4090 = Card(name="NVIDIA GeForce RTX 4090", uuid="GPU-4090", bus="0:02", pci=0x268410DE,
                capability=(8, 9), mib=24564, cores=16384, version=None)  # fmt: skip
RTX_3060 = Card(name="NVIDIA GeForce RTX 3060", uuid="GPU-3060", bus="0:01", pci=0x250410DE,
                capability=(8, 6), mib=12288, cores=3584, version=None)  # fmt: skip
SLICES = [
    Slice("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-1", 7, 14, 4864, 4800),
    Slice("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-2", 2, 42, 19968, None),
]
A100 = Card(name="NVIDIA A100-SXM4-40GB", uuid="GPU-a100", bus="0:07", pci=0x20B010DE,
            capability=(8, 0), mib=40960, cores=6912, mig=True, slices=SLICES)  # fmt: skip
GB10 = Card(name="NVIDIA GB10", uuid="GPU-gb10", pci=0x2E1210DE, capability=(12, 1), mib=None,
            mig=None, ecc=None)  # fmt: skip


def host(root: Path = Path("/nowhere"), container: bool = False, **environ: str) -> Host:
    return Host(
        environ=environ,
        total_bytes=120 * GIB,
        available_bytes=100 * GIB,
        container=container,
        root=root,
    )


def find(*cards: Card, cuda: Mapping[str, Any] | None = None, on: Host | None = None) -> Found:
    return assemble(read_machine(FakeNvml(list(cards))), cuda, on or host())


def cuda_device(uuid: str, **known: object) -> dict[str, object]:
    usual = {"free_bytes": GIB, "total_bytes": 2 * GIB, "integrated": False, "coherent": False}
    return {"uuid": uuid, "bus_id": "", "multiprocessors": 9, **usual, **known}


def test_a_known_card_has_the_data_sheets_rates() -> None:
    (gpu,) = find(H200).gpus
    assert (gpu.index, gpu.multiprocessors, gpu.free_bytes) == (0, 132, 143000 * MIB)
    assert (gpu.memory_bandwidth, gpu.flops["fp8"]) == (4.8e12, 1979e12)
    assert gpu.rates_from == "NVIDIA H200 data sheet, 2024 (SXM)"
    assert (gpu.unified_memory, gpu.coherent, gpu.mig) == (False, False, None)
    assert gpu.pcie_bandwidth == pytest.approx(63e9, rel=0.01)


def test_an_unknown_card_is_estimated_from_its_clocks() -> None:
    (gpu,) = find(replace(H200, name="NVIDIA H300")).gpus
    assert gpu.rates_from == "estimate"
    assert gpu.memory_bandwidth == pytest.approx(4.8e12, rel=0.01)
    assert gpu.flops["bf16"] == pytest.approx(989e12, rel=0.1)
    mute = replace(H200, name="X", cores=None, bits=None, sm_mhz=None)
    assert (find(mute).gpus[0].flops, find(mute).gpus[0].memory_bandwidth) == ({}, None)


def test_the_fastest_of_unlike_cards_is_first_unless_asked_otherwise() -> None:
    names = [gpu.name for gpu in find(RTX_3060, RTX_4090).gpus]
    assert names == [RTX_4090.name, RTX_3060.name]
    by_address = find(RTX_3060, RTX_4090, on=host(CUDA_DEVICE_ORDER="PCI_BUS_ID")).gpus
    assert [(gpu.index, gpu.nvml_index, gpu.name) for gpu in by_address] == [
        (0, 0, RTX_3060.name),
        (1, 1, RTX_4090.name),
    ]


def test_cudas_own_order_is_believed() -> None:
    answer = {"devices": [cuda_device("3060"), cuda_device("4090")]}
    found = find(RTX_3060, RTX_4090, cuda=answer)
    assert [gpu.name for gpu in found.gpus] == [RTX_3060.name, RTX_4090.name]
    # NVML knew the memory of both.
    assert found.gpus[0].total_bytes == 12288 * MIB


def test_hidden_cards_are_named_with_the_reason() -> None:
    found = find(RTX_3060, RTX_4090, on=host(CUDA_VISIBLE_DEVICES="0"))
    assert [gpu.name for gpu in found.gpus] == [RTX_4090.name]
    (hidden,) = found.hidden
    assert (hidden.uuid, hidden.reason) == ("GPU-3060", "CUDA_VISIBLE_DEVICES=0 leaves it out.")


def test_all_hidden_is_a_problem() -> None:
    found = find(H200, on=host(CUDA_VISIBLE_DEVICES=""))
    assert (found.gpus, found.problem) == (
        (),
        "The driver shows GPUs, but none is left here. CUDA_VISIBLE_DEVICES is set but empty, so "
        "CUDA shows no GPU.",
    )


@given(st.none() | st.text(st.characters(exclude_characters="\0")))
def test_every_card_is_either_shown_or_hidden(value: str | None) -> None:
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    found = find(RTX_3060, RTX_4090, H200, on=host(**environ))
    assert {g.uuid for g in found.gpus} | {g.uuid for g in found.hidden} == {
        *("GPU-3060", "GPU-4090", "GPU-aaaa")
    }
    assert [gpu.index for gpu in found.gpus] == list(range(len(found.gpus)))
    assert bool(found.gpus) != bool(found.problem)


def test_one_mig_slice_is_used_and_the_others_are_hidden() -> None:
    found = find(A100)
    (gpu,) = found.gpus
    assert (gpu.uuid, gpu.total_bytes, gpu.free_bytes) == ("MIG-1", 4864 * MIB, 4800 * MIB)
    assert gpu.mig is not None
    assert (gpu.mig.profile, gpu.mig.parent, gpu.mig.memory_share) == ("1g.5gb", "GPU-a100", 1 / 8)
    assert gpu.memory_bandwidth == pytest.approx(1555e9 / 8)
    assert gpu.flops["bf16"] == pytest.approx(312e12 * 14 / 108)
    (hidden,) = found.hidden
    assert hidden.reason == "CUDA lets a process use one MIG slice, and this is another."


def test_a_mig_slice_that_only_cuda_can_ask() -> None:
    answer = {"devices": [cuda_device("2", free_bytes=19 * GIB, total_bytes=19 * GIB)]}
    found = find(A100, cuda=answer, on=host(CUDA_VISIBLE_DEVICES="MIG-2"))
    (gpu,) = found.gpus
    assert (gpu.uuid, gpu.free_bytes) == ("MIG-2", 19 * GIB)
    assert gpu.mig is not None
    assert (gpu.mig.memory_share, gpu.mig.sm_share) == (4 / 8, 42 / 108)


def test_a_slice_that_does_not_know_its_multiprocessors() -> None:
    found = find(replace(A100, slices=[replace(SLICES[1], sms=None)]))
    assert found.gpus[0].flops["bf16"] == 312e12 / 2


def test_mig_mode_without_slices() -> None:
    found = find(replace(A100, slices=[]))
    assert str(found.problem).endswith(
        "Its MIG mode is on, but it has no slice that this process may use."
    )


def test_cuda_hides_whole_cards_beside_slices() -> None:
    answer = {"devices": [cuda_device("1")]}
    hidden = find(A100, H200, cuda=answer).hidden
    assert [h.reason.partition(",")[0] for h in hidden] == [
        "CUDA does not show it to this process",
        "CUDA lets a process use one MIG slice",
    ]


def test_unified_memory_counts_page_cache_as_free() -> None:
    integrated = cuda_device(
        "gb10", integrated=True, coherent=True, free_bytes=GIB, total_bytes=119 * GIB
    )
    (gpu,) = find(GB10, cuda={"devices": [integrated]}).gpus
    assert (gpu.total_bytes, gpu.free_bytes, gpu.unified_memory) == (119 * GIB, 100 * GIB, True)
    # Without an answer from CUDA the host's memory is what there is.
    (gpu,) = find(GB10).gpus
    assert (gpu.total_bytes, gpu.free_bytes, gpu.unified_memory) == (120 * GIB, 100 * GIB, True)


def test_a_card_that_hides_its_memory_from_nvml_alone_has_its_own() -> None:
    (gpu,) = find(replace(GB10, name="X"), cuda={"devices": [cuda_device("gb10")]}).gpus
    assert (gpu.total_bytes, gpu.free_bytes, gpu.unified_memory) == (2 * GIB, GIB, False)


def test_page_cache_in_a_cards_own_memory_is_free(tmp_path: Path) -> None:
    node = tmp_path / "sys/devices/system/node/node1"
    node.mkdir(parents=True)
    (node / "meminfo").write_text(
        "Node 1 MemFree:        10 kB\nNode 1 Active(file):   1024 kB\n"
        "Node 1 Inactive(file): 2048 kB\nNode 1 Shmem: 9 kB\n"
    )
    card = replace(H200, name="NVIDIA GH200 480GB", mib=97871, free=90000, node=1)
    (gpu,) = find(card, on=host(tmp_path)).gpus
    assert (gpu.free_bytes, gpu.coherent, gpu.unified_memory) == (90003 * MIB, True, False)
    assert find(replace(card, free=97870), on=host(tmp_path)).gpus[0].free_bytes == 97871 * MIB


def test_the_cards_numa_node(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:18:00.0"
    device.mkdir(parents=True)
    (device / "numa_node").write_text("1\n")
    assert find(H200, on=host(tmp_path)).gpus[0].numa_node == 1
    (device / "numa_node").write_text("-1\n")
    assert find(H200, on=host(tmp_path)).gpus[0].numa_node is None


def test_links_go_by_cudas_numbers() -> None:
    far = [("0:2", 0)] * 4
    cards = [replace(H200, uuid=f"GPU-{i}", bus=f"0:{i}", links=far) for i in range(2)]
    cards.append(replace(H200, uuid="GPU-2", bus="0:2", links=[("0:0", 0)] * 4))
    found = find(*cards, on=host(CUDA_VISIBLE_DEVICES="2,0"))
    (link,) = found.links
    assert (link.gpus, link.nvlinks, link.bandwidth, link.path) == ((0, 1), 4, 100e9, "SYS")
    (link,) = find(RTX_4090, RTX_3060).links
    assert link.nvlinks == 0
    assert link.bandwidth == pytest.approx(63e9, rel=0.01)


def test_a_container_that_sees_more_than_it_asked_for_is_told() -> None:
    (note,) = find(H200, replace(H200, uuid="GPU-b"), on=host(NVIDIA_VISIBLE_DEVICES="1")).notes
    assert note.startswith("NVIDIA_VISIBLE_DEVICES=1 names 1 of the 2 GPUs here")


def test_a_lost_card_is_noted() -> None:
    assert find(H200, Card(lost="GPU is lost")).notes == ("GPU 1 is lost: GPU is lost.",)


@pytest.mark.parametrize(
    ("cards", "environ", "needed"),
    [
        ([H200, H200], {}, False),
        ([RTX_3060, RTX_4090], {}, True),
        ([RTX_3060, RTX_4090], {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, False),
        ([A100], {}, True),
        ([GB10], {}, True),
    ],
)
def test_cuda_is_asked_only_where_nvml_leaves_something_open(
    cards: list[Card], environ: dict[str, str], needed: bool
) -> None:
    assert needs_cuda(read_machine(FakeNvml(cards)), host(**environ)) == needed


def child_of(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_cuda_that_crashes_is_survived_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = json.dumps(read_machine(FakeNvml([RTX_3060, RTX_4090])))
    scripts = {"nvml.py": f"print({nvml!r})", "cuda.py": "import os; os.abort()"}
    monkeypatch.setattr(gpus, "script", lambda name: child_of(scripts[name]))
    found = find_gpus(host())
    assert [gpu.name for gpu in found.gpus] == [RTX_4090.name, RTX_3060.name]
    assert found.notes == ("CUDA gave no answer: its child ended with status -6: no output.",)


@pytest.mark.parametrize(
    ("environ", "end"),
    [
        ({}, " A container gets GPUs by `docker run --gpus all`."),
        (
            {"NVIDIA_VISIBLE_DEVICES": "void"},
            " NVIDIA_VISIBLE_DEVICES=void asks for none.",
        ),
    ],
)
def test_a_container_says_how_it_gets_gpus(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], end: str
) -> None:
    code = 'print(\'{"problem": "There is no NVIDIA driver on this machine."}\')'
    monkeypatch.setattr(gpus, "script", lambda name: child_of(code))
    bare = "There is no NVIDIA driver on this machine."
    assert find_gpus(host(container=True, **environ)).problem == bare + end
    assert find_gpus(host(**environ)).problem == bare

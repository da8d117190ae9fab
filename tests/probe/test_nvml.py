"""The driver's child: what it makes of the answers of many kinds of card."""

import json
from typing import Any

import pytest
from fakes.nvml import MIB, Card, FakeNvml, Slice

from nimlite.probe.nvml import read_machine

GPU, SWITCH = 0, 2


def one(**changes: Any) -> dict[str, Any]:
    return read_machine(FakeNvml([Card(**changes)]))["gpus"][0]


def link(cards: list[Card], **changes: Any) -> dict[str, Any]:
    return read_machine(FakeNvml(cards, **changes))["links"][0]


def test_a_card_that_knows_all() -> None:
    answer = read_machine(FakeNvml([Card(processes=[(7, 5 * MIB), (8, None)])]))
    assert json.loads(json.dumps(answer)) == answer
    assert (answer["driver"], answer["cuda"], answer["problem"]) == ("580.95.05", "13.0", None)
    assert answer["gpus"] == [
        {
            "nvml_index": 0,
            "name": "NVIDIA H200",
            "uuid": "GPU-aaaa",
            "bus_id": "00000000:18:00.0",
            "pci_device": "2335:10de",
            "compute_capability": "9.0",
            "total_bytes": 143771 * MIB,
            "free_bytes": 143000 * MIB,
            "cores": 16896,
            "bus_bits": 6016,
            "memory_mhz": 3201,
            "sm_mhz": 1980,
            "pcie_generation": 5,
            "pcie_lanes": 16,
            "memory_node": None,
            "mig_enabled": False,
            "slices": [],
            "ecc": True,
            "power_limit_watts": 700.0,
            "processes": [{"pid": 7, "used_bytes": 5 * MIB}, {"pid": 8, "used_bytes": None}],
        }
    ]


def test_what_a_card_does_not_know_is_null() -> None:
    unknown = dict.fromkeys(("mib", "cores", "bits", "memory_mhz", "sm_mhz", "pcie", "milliwatts"))
    gpu = one(**unknown, mig=None, ecc=None, node=-1)
    assert {name for name, value in gpu.items() if value is None} == {
        *("total_bytes", "free_bytes", "cores", "bus_bits", "memory_mhz", "sm_mhz"),
        *("pcie_generation", "pcie_lanes", "memory_node", "mig_enabled", "ecc"),
        "power_limit_watts",
    }


def test_a_binding_without_a_function() -> None:
    class Old(FakeNvml):
        nvmlDeviceGetNumGpuCores = property(lambda self: self.missing)  # AttributeError

    assert read_machine(Old([Card()]))["gpus"][0]["cores"] is None


def test_mig_slices() -> None:
    slices = [
        Slice("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-1", 7, 14, 4864, 4800),
        Slice("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-2", 2, None, 19968, None),
    ]
    known, unknown = one(mig=True, slices=slices)["slices"]
    assert (known["uuid"], known["gpu_instance"], known["multiprocessors"]) == ("MIG-1", 7, 14)
    assert (known["total_bytes"], known["size_bytes"]) == (4864 * MIB, 4864 * MIB)
    assert (unknown["free_bytes"], unknown["multiprocessors"]) == (None, None)
    # With the mode off no slice counts, whatever the driver still lists.
    assert one(mig=False, slices=slices)["slices"] == []


def test_a_lost_card_does_not_hide_the_others() -> None:
    answer = read_machine(FakeNvml([Card(lost="GPU is lost"), Card(uuid="GPU-b")]))
    assert [gpu["nvml_index"] for gpu in answer["gpus"]] == [1]
    assert answer["lost"] == [{"nvml_index": 0, "problem": "GPU is lost"}]
    assert answer["problem"] is None


@pytest.mark.parametrize(
    ("nvml", "problem"),
    [
        (FakeNvml([]), "The NVIDIA driver works but shows no GPU."),
        (FakeNvml([Card(lost="GPU is lost")]), "No GPU answers: GPU is lost."),
        (
            FakeNvml([], failure=FakeNvml.NVMLError_LibraryNotFound("x")),
            "There is no NVIDIA driver on this machine.",
        ),
        (
            FakeNvml([], failure=FakeNvml.NVMLError("RM has detected an NVML/RM mismatch")),
            "The NVIDIA driver does not work: RM has detected an NVML/RM mismatch.",
        ),
    ],
)
def test_no_gpu_is_a_sentence(nvml: FakeNvml, problem: str) -> None:
    assert read_machine(nvml)["problem"] == problem


def pair(a: list[tuple[str, int]], b: list[tuple[str, int]]) -> list[Card]:
    return [Card(uuid="GPU-a", bus="0:A", links=a), Card(uuid="GPU-b", bus="0:B", links=b)]


def test_nvlinks_to_each_other_and_to_others() -> None:
    cards = pair([("0:b", GPU), ("0:b", GPU), ("0:c", GPU)], [("0:a", GPU), ("0:a", GPU)])
    found = link(cards)
    assert (found["gpus"], found["nvlinks"], found["path"]) == ([0, 1], 2, "SYS")
    assert found["p2p"]


def test_nvlinks_to_a_switch() -> None:
    cards = pair([("0:5", SWITCH)] * 18, [("0:5", SWITCH)] * 17)
    assert link(cards, path=30) | {"p2p": None} == {
        "gpus": [0, 1],
        "nvlinks": 17,
        "nvlink_version": 6,
        "p2p": None,
        "path": "PHB",
    }


def test_nvlinks_of_a_virtual_machine_that_hides_the_far_end() -> None:
    assert link(pair([("", GPU)] * 4, [("", GPU)] * 4))["nvlinks"] == 4
    assert link(pair([("", GPU)] * 4, [("", GPU)] * 4), p2p=5)["nvlinks"] == 0


def test_pcie_alone() -> None:
    found = link(pair([], []), path=10, p2p=1)
    assert (found["nvlinks"], found["p2p"], found["path"]) == (0, False, "PIX")

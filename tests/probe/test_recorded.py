"""The recorded machines: all load, agree with the data sheets, and are as they are made."""

import json
from pathlib import Path

import pytest

from nimlite.errors import SettingError
from nimlite.probe.cards import find_card
from nimlite.probe.machine import Machine, machines_directory
from nimlite.probe.recorded import main, recorded_machines

FILES = sorted(machines_directory().glob("*.json"))
NAMES = [path.stem for path in FILES]
MACHINES = {path.stem: Machine.load(path) for path in FILES}
MADE = recorded_machines()


def test_the_machines_that_were_promised_are_there() -> None:
    datacentre = (
        *("t4", "a10", "a30", "a100-40-pcie", "a100-40-sxm", "a100-80-pcie", "a100-80-sxm"),
        *("l4", "l40s", "h100-sxm", "h100-pcie", "h100-nvl", "h200", "h200-nvl", "b200"),
    )
    several = {f"{name}-x{n}" for name in datacentre for n in (2, 4)}
    others = {
        *("v100-16", "v100-32", "v100-32-x8", "a10g", "gh200", "gb200", "gb10", "rtx-3090"),
        *("rtx-4090", "rtx-5090", "rtx-6000-ada", "rtx-pro-6000", "a100-40-1g.5gb"),
        *("a100-40-3g.20gb", "h100-1g.10gb", "h100-3g.40gb", "cpu-server", "cpu-small"),
        *("broken-driver", "mixed-4090-3060", "h100-sxm-x8", "h200-x8", "b200-x8"),
    }
    assert {*datacentre, *several, *others} <= set(NAMES)


def test_the_files_are_those_that_the_module_makes(tmp_path: Path) -> None:
    main(tmp_path)
    made = {path.stem: path.read_text() for path in tmp_path.glob("*.json")}
    assert made == {name: (machines_directory() / f"{name}.json").read_text() for name in MADE}
    assert set(NAMES) == {*made, "h200"}


def test_the_real_h200_is_near_its_data_sheet() -> None:
    (gpu,) = MACHINES["h200"].gpus
    assert gpu.measured_bandwidth is not None
    assert gpu.memory_bandwidth is not None
    assert 0.85 < gpu.measured_bandwidth / gpu.memory_bandwidth < 1
    assert 0.7 < gpu.measured_flops["bf16"] / gpu.flops["bf16"] < 1


@pytest.mark.parametrize("name", NAMES)
def test_a_machine_is_consistent(name: str) -> None:
    machine = MACHINES[name]
    gpus = machine.gpus
    assert [gpu.index for gpu in gpus] == list(range(len(gpus)))
    assert len({gpu.uuid for gpu in gpus}) == len(gpus)
    assert bool(gpus) != bool(machine.gpu_problem)
    assert bool(gpus) == bool(machine.software.driver)
    assert 0 < machine.memory.available_bytes < machine.memory.total_bytes
    for gpu in gpus:
        card = find_card(gpu.name)
        assert card is not None
        assert 0 < gpu.free_bytes < gpu.total_bytes
        share = gpu.mig.memory_share if gpu.mig else 1.0
        assert gpu.total_bytes == pytest.approx(card.mib * (1 << 20) * share, rel=0.05)
        assert gpu.compute_capability == card.capability
        assert gpu.pci_device == f"{card.pci}:10de"
        assert gpu.unified_memory == (gpu.name == "NVIDIA GB10")
    for link in machine.links:
        a, b = link.gpus
        assert 0 <= a < b < len(gpus)
        assert link.bandwidth
        assert link.path in ("PIX", "PXB", "PHB", "NODE", "SYS")
    assert len({link.gpus for link in machine.links}) == len(gpus) * (len(gpus) - 1) // 2
    for gpu in gpus:
        card = find_card(gpu.name)
        assert card is not None
        far_ends = sum(link.nvlinks for link in machine.links if gpu.index in link.gpus)
        shared_switch = len({link.nvlinks for link in machine.links}) == 1
        assert far_ends <= card.nvlinks or (shared_switch and machine.links[0].nvlinks)


def test_no_machine_stands_twice() -> None:
    texts = [json.dumps(json.loads(path.read_text()), sort_keys=True) for path in FILES]
    assert len(set(texts)) == len(FILES)


def test_a_recorded_machine_goes_by_its_name_and_by_its_file(tmp_path: Path) -> None:
    assert Machine.load("l4") == Machine.load("l4.json") == MACHINES["l4"]
    saved = tmp_path / "mine.json"
    MACHINES["l4"].save(saved)
    assert Machine.load(str(saved)) == Machine.load(saved) == MACHINES["l4"]


def test_a_recording_of_an_older_release_reads(tmp_path: Path) -> None:
    """Of the day before rates, links and slices."""
    data = json.loads(MACHINES["h100-sxm-x2"].to_json())
    old = ("index", "name", "uuid", "pci_device", "compute_capability", "total_bytes", "free_bytes")
    data["gpus"] = [{key: gpu[key] for key in old} for gpu in data["gpus"]]
    for key in ("links", "hidden_gpus", "notes"):
        del data[key]
    del data["cpu"]["numa_nodes"], data["disk"]["read_bandwidth"], data["memory"]["bandwidth"]
    machine = Machine.from_json(json.dumps(data))
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA H100 80GB HBM3"] * 2
    assert (machine.gpus[0].flops, machine.gpus[0].memory_bandwidth) == ({}, None)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("h200x", "The machine 'h200x' is neither a file nor one of the"),
        ("h200x", "Did you mean h200"),
        ("no/such.json", "The machine 'no/such.json' is neither a file nor one of the"),
        (".", "The machine . can't be read: Is a directory."),
        ("pyproject.toml", "pyproject.toml is not a recorded machine: the file: Invalid JSON"),
    ],
)
def test_what_is_no_machine_is_an_error_that_says_so(source: str, sentence: str) -> None:
    with pytest.raises(SettingError) as raised:
        Machine.load(source)
    assert sentence in str(raised.value)
    assert "nimlite probe --save FILE" in str(raised.value) or source == "."


def test_a_machine_that_cant_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"can't be written to .*: Is a directory"):
        MACHINES["l4"].save(tmp_path)

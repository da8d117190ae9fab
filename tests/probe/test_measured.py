"""Measured rates: taken on this machine, kept in the cache, put beside the data sheets'."""

from dataclasses import asdict
from pathlib import Path

import pytest

from nimlite.probe import measured, probe
from nimlite.probe.machine import Machine
from nimlite.probe.measured import Measured, Rates, load_measured, measure_disk, measure_machine


def test_rates_are_put_on_the_gpu_that_they_are_of() -> None:
    machine = Machine.load("h200-x2")
    uuid = machine.gpus[1].uuid.removeprefix("GPU-")
    rates = Rates(memory_bandwidth=4.2e12, flops={"bf16": 7e14})
    known = Measured(gpus={uuid: rates}, memory_bandwidth=1e11, disk_read_bandwidth=2e9)
    found = known.apply(machine)
    assert [gpu.measured_bandwidth for gpu in found.gpus] == [None, 4.2e12]
    assert found.gpus[1].measured_flops == {"bf16": 7e14}
    # The data sheet's stay.
    assert found.gpus[1].memory_bandwidth == machine.gpus[1].memory_bandwidth
    assert (found.memory.measured_bandwidth, found.disk.read_bandwidth) == (1e11, 2e9)
    assert Machine.from_json(found.to_json()) == found


def test_this_machine_is_measured_once_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "_BLOCKS", 1)
    found, problem = measure_machine(tmp_path / "cache")
    assert problem is None
    assert found.memory_bandwidth
    assert found.disk_write_bandwidth
    assert load_measured(tmp_path / "cache") == found
    assert probe(tmp_path / "cache").memory.measured_bandwidth == found.memory_bandwidth
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["measured.json"]


@pytest.mark.parametrize("text", ["", "{", '{"gpus": 1}', "[]"])
def test_a_file_that_cant_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "measured.json").write_text(text)
    assert load_measured(tmp_path) == Measured()
    assert asdict(load_measured(tmp_path / "nowhere")) == asdict(Measured())


def test_a_disk_that_cant_be_written_is_not_measured() -> None:
    assert measure_disk(Path("/proc/nimlite")) == (None, None)

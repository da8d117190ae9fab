"""What holds for any machine, settings and text."""

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.machines import GIB, card, host
from golden import EVERYTHING, MANIFESTS
from hypothesis import given, settings
from hypothesis import strategies as st

from nimlite.errors import ManifestError, NimliteError, SettingError
from nimlite.probe.machine import Gpu, Machine
from nimlite.profiles.candidate import Candidate, Fit
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Device, Manifest
from nimlite.profiles.selection import rank, select
from nimlite.profiles.support import THIS_VERSION
from nimlite.settings import Goal, Settings, read_settings

SERVED = tuple(m for m in MANIFESTS if m.family.startswith(("llama", "smollm")))
YAML = (profiles_directory() / "smollm2-135m.yaml").read_text()

cards = st.sampled_from(["T4", "A10", "A100", "L4", "H100", "H200"])
aims = st.fixed_dictionaries(
    {},
    optional={
        "profile_goal": st.sampled_from([str(goal) for goal in Goal]),
        "concurrency": st.integers(1, 1024),
        "input_length": st.integers(1, 8192),
        "output_length": st.integers(1, 2048),
    },
)
limits = st.fixed_dictionaries(
    {},
    optional={
        "max_model_len": st.integers(1, 1024),
        "max_batch_size": st.integers(1, 512),
        "max_num_tokens": st.integers(512, 4096),
        "kvcache_percent": st.floats(0.05, 1.0),
    },
)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    count = draw(st.sampled_from([0, 1, 1, 2, 4]))
    name = draw(cards)
    gpus = [card(name, index) for index in range(count)]
    gpus = [replace(g, free_bytes=int(draw(st.floats(0, 1)) * g.total_bytes)) for g in gpus]
    ram = draw(st.floats(0, 64))
    islands = draw(st.sampled_from([(), (range(count),), (range(count // 2),)]))
    return host(gpus, ram=ram, cores=draw(st.integers(1, 64)), islands=islands)


def best(manifest: Manifest, machine: Machine, asked: Settings) -> Candidate:
    return rank(manifest, machine, asked, EVERYTHING)[0]


def never_worse(old: Candidate, new: Candidate) -> None:
    """By class, then a GPU before the CPU, then the goal's score."""
    if old.fit is not Fit.RUNNABLE:
        return
    assert new.fit is Fit.RUNNABLE
    if old.profile.device is new.profile.device:
        assert new.score >= old.score * (1 - 1e-9)
    else:
        assert new.profile.device is Device.GPU


@settings(deadline=None)
@given(st.sampled_from(MANIFESTS), machines(), aims, st.floats(1, 4), st.floats(1, 4))
def test_more_memory_or_a_faster_gpu_is_never_worse(
    manifest: Manifest, machine: Machine, aim: dict[str, Any], memory: float, speed: float
) -> None:
    asked = read_settings({}, aim)
    gpus = tuple(_better(gpu, memory, speed) for gpu in machine.gpus)
    ram = replace(machine.memory, available_bytes=int(machine.memory.available_bytes * memory))
    old = best(manifest, machine, asked)
    never_worse(old, best(manifest, replace(machine, gpus=gpus), asked))
    never_worse(old, best(manifest, replace(machine, memory=ram), asked))


def _better(gpu: Gpu, memory: float, speed: float) -> Gpu:
    return replace(
        gpu,
        total_bytes=int(gpu.total_bytes * memory),
        free_bytes=int(gpu.free_bytes * memory),
        memory_bandwidth=(gpu.memory_bandwidth or 0) * speed,
        flops={name: rate * speed for name, rate in gpu.flops.items()},
    )


@settings(deadline=None)
@given(st.sampled_from(MANIFESTS), machines(), aims, limits)
def test_the_choice_fits_into_what_is_free_and_obeys_the_limits(
    manifest: Manifest, machine: Machine, aim: dict[str, Any], limit: dict[str, Any]
) -> None:
    try:
        chosen = select(manifest, machine, read_settings({}, {**aim, **limit}), EVERYTHING).chosen
    except SettingError as error:
        assert f"No profile of {manifest.family} can run here" in str(error) or (
            "contradict each other" in str(error)
        )
        return
    memory = chosen.memory
    free = [gpu.free_bytes for gpu in machine.gpus if gpu.index in chosen.gpus]
    assert len(free) == chosen.profile.num_gpus
    assert memory.total <= memory.budget <= min(free, default=machine.memory.available_bytes)
    assert memory.kv_cache >= memory.kv_minimum
    assert memory.kv_cache == chosen.serving.kv_cache_bytes
    for name in limit.keys() - {"kvcache_percent"}:
        assert getattr(chosen.serving, name) == limit[name]


@settings(deadline=None)
@given(st.sampled_from(SERVED), machines(), st.data())
def test_a_pin_is_obeyed_or_refused_by_name(
    manifest: Manifest, machine: Machine, data: st.DataObject
) -> None:
    profile = data.draw(st.sampled_from(manifest.profiles))
    pin = data.draw(st.sampled_from([profile.id, profile.name, f"{profile.id} ({profile.name})"]))
    try:
        chosen = select(manifest, machine, read_settings({"NIM_MODEL_PROFILE": pin})).chosen
    except SettingError as error:
        said = str(error)
        assert (
            profile.name in said
            or THIS_VERSION.reason(manifest, profile) in said
            or (str(profile.num_gpus) in said)
        )
    else:
        assert chosen.profile == profile


@settings(deadline=None)
@given(st.sampled_from(SERVED), st.dictionaries(st.text(), st.text(), max_size=3), machines())
def test_a_selector_is_obeyed_or_refused_by_name(
    manifest: Manifest, tags: dict[str, str], machine: Machine
) -> None:
    asked = Settings(tags_selector=tags)
    try:
        chosen = select(manifest, machine, asked).chosen
    except SettingError as error:
        said = str(error)
        assert "NIM_TAGS_SELECTOR" in said or "No profile of" in said
    else:
        assert tags.items() <= chosen.profile.tags.items()


@settings(deadline=None)
@given(st.text())
def test_no_pin_crashes(text: str) -> None:
    manifest = SERVED[-1]
    try:
        rank(manifest, host(), Settings(model_profile=text))
    except SettingError as error:
        assert "names" in str(error)


@settings(deadline=None)
@given(text=st.text(st.sampled_from(string.printable)) | st.text())
def test_no_manifest_crashes(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_text(text, tmp_path_factory.getbasetemp() / "any.yaml")


@settings(deadline=None)
@given(
    at=st.integers(0, len(YAML)),
    length=st.integers(0, 40),
    put=st.text(st.sampled_from(" \n:-{}[],#&*!|>'\"%@`0aé\t"))
    | st.sampled_from(["[]", "{}", "~"]),
)
def test_no_damaged_manifest_crashes(
    at: int, length: int, put: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_text(
        YAML[:at] + put + YAML[at + length :], tmp_path_factory.getbasetemp() / "damaged.yaml"
    )


def check_text(text: str, path: Path) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_manifest(path)
    except ManifestError as error:
        assert str(error).startswith(str(path))


def test_a_user_error_is_what_all_of_these_raise() -> None:
    assert issubclass(ManifestError, NimliteError) and GIB == 1 << 30

"""What people complain about with NIM's choice of a profile does not happen here.

The numbers are those of the complaints in NIM's trackers, as tests/test_complaints.py has the ones
on settings, caches and commands.
"""

from dataclasses import replace

import pytest
from fakes.machines import GIB, card, host, several
from golden import EVERYTHING

from nimlite.errors import SelfTestError, SettingError
from nimlite.probe.cards import CARDS
from nimlite.probe.machine import Machine, machines_directory
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Device, Precision
from nimlite.profiles.selection import Fit, rank, select
from nimlite.settings import read_settings
from nimlite.startup import Plan, choose_gpu, first_that_passes

LLAMA = load_manifest(profiles_directory() / "llama3-8b.yaml")
SMOLLM = load_manifest(profiles_directory() / "smollm2-135m.yaml")
NOTHING_ASKED = read_settings({})


def recorded(name: str) -> Machine:
    return Machine.load(machines_directory() / f"{name}.json")


def test_02_a_t4_is_given_what_it_can_compute_and_hold() -> None:
    """A build for a T4 ran into its memory and started again, for ever."""
    chosen = select(SMOLLM, recorded("t4"), NOTHING_ASKED).chosen
    assert chosen.profile.precision is Precision.FP16  # it has no bf16
    ranked = rank(LLAMA, recorded("t4"), NOTHING_ASKED)
    assert ranked[0].profile.device is Device.CPU
    assert "No GPU: nimlite-fp16-tp1-pp1-gpu-latency would be it, but: It needs " in (
        ranked[0].reason
    )
    assert ranked[0].memory.total <= ranked[0].memory.budget


@pytest.mark.parametrize("name", ["gh200", "h200", "b200", "rtx-5090", "gb10"])
def test_06_the_next_best_never_surprises_without_a_word(name: str) -> None:
    """The slower engine was chosen, fp8 where no profile had it, x86's plan on an Arm host."""
    selection = select(LLAMA, recorded(name), NOTHING_ASKED)
    chosen = selection.chosen
    assert chosen.profile.device is Device.GPU
    assert chosen.score == max(c.score for c in selection.candidates if c.gpus)
    assert "Predicted on " in chosen.reason and " as good" in chosen.reason
    if chosen.profile.precision is Precision.FP8:
        assert "its rounding must bring 1.15x" in chosen.reason
    assert all(c.reason for c in selection.candidates)


@pytest.mark.parametrize("product", CARDS, ids=[c.name for c in CARDS])
def test_07_no_card_is_refused_because_no_profile_names_it(product) -> None:
    """H100 NVL and H200 were refused where the manifest knew their sisters."""
    known = card("H200")
    gpu = replace(
        known,
        name=product.name,
        pci_device=f"{product.pci}:10de",
        compute_capability=product.capability,
        total_bytes=product.mib << 20,
        free_bytes=product.mib << 20,
        memory_bandwidth=None,  # not even its rates are known
        flops={},
    )
    ranked = rank(SMOLLM, host([gpu]), NOTHING_ASKED)
    assert ranked[0].fit is Fit.RUNNABLE
    on_gpu = ranked[0].profile.device is Device.GPU
    assert on_gpu == (product.capability != "7.0")  # CUDA 13 does not compile for Volta
    if on_gpu:
        assert ranked[0].prediction is not None
        assert "the nearest card that is known" in ranked[0].prediction.source


def test_07_a_card_that_nobody_knows_is_ranked_by_its_nearest() -> None:
    gpu = replace(card("H100"), name="NVIDIA H300", memory_bandwidth=None, flops={})
    chosen = select(LLAMA, host([gpu], ram=64), NOTHING_ASKED).chosen
    assert chosen.prediction is not None
    assert "those of NVIDIA H100 PCIe, the nearest card" in chosen.prediction.source or (
        "those of NVIDIA H100 80GB HBM3, the nearest card" in chosen.prediction.source
    )


def test_08_an_engine_that_fails_its_self_test_gives_way_to_the_next_precision() -> None:
    """fp8 answered with token salad, and was said to be ready."""
    plan = Plan(
        settings=NOTHING_ASKED,
        machine=recorded("h200"),
        selection=select(LLAMA, recorded("h200"), NOTHING_ASKED),
    )
    tried: list[str] = []

    def start(plan: Plan) -> str:
        tried.append(str(plan.selection.chosen.profile.precision))
        if len(tried) < 3:
            raise SelfTestError("It does not compute this model.")
        return "ready"

    served, answer = first_that_passes(plan, start)
    assert (tried, answer) == (["fp8", "bf16", "fp16"], "ready")
    chosen = served.selection.chosen
    assert chosen is served.selection.candidates[0]
    assert chosen.reason.startswith("The self-test of nimlite-bf16-tp1-pp1-")
    failed = [c for c in served.selection.candidates if "self-test" in c.reason][1:]
    assert failed and {c.fit for c in failed} == {Fit.INCOMPATIBLE}

    asked = read_settings({"NIM_TAGS_SELECTOR": "precision=fp8"})
    pinned = replace(plan, selection=select(LLAMA, plan.machine, asked))
    tried.clear()
    with pytest.raises(SelfTestError):
        first_that_passes(pinned, start)
    assert tried == ["fp8"]


@pytest.mark.parametrize(
    ("torch", "cuda", "reason"),
    [
        ("2.13.0+cpu", "13.0", "The installed torch (2.13.0+cpu) is built for CPUs only"),
        ("2.11.0+cu130", "12.4", "needs a driver for CUDA 13; this machine's (550) serves CUDA 12"),
    ],
)
def test_09_a_gpu_that_the_installed_torch_can_not_use_is_not_chosen(
    torch: str, cuda: str, reason: str
) -> None:
    """ "no kernel image is available", after a profile had been selected."""
    machine = host([card("H200")], ram=64)
    software = replace(machine.software, torch=torch, cuda=cuda, driver="550")
    ranked = rank(LLAMA, replace(machine, software=software), NOTHING_ASKED)
    assert ranked[0].profile.device is Device.CPU
    assert any(reason in c.reason for c in ranked if c.fit is Fit.INCOMPATIBLE)
    assert rank(LLAMA, machine, NOTHING_ASKED)[0].profile.device is Device.GPU


def test_10_an_architecture_that_is_not_computed_is_refused_before_anything_is_fetched() -> None:
    """The model was newer than the engine, which said so by a stack trace after the download."""
    unknown = replace(LLAMA, shape=replace(LLAMA.shape, architecture="Llama9ForCausalLM"))
    with pytest.raises(SettingError) as raised:
        select(unknown, host([card("H200")], ram=64), NOTHING_ASKED)
    assert str(raised.value).startswith("This version can't compute Llama9ForCausalLM yet.")


def test_16_memory_is_split_by_arithmetic_and_nothing_is_left_unused() -> None:
    """One fixed fraction left 58 GB unused."""
    for name in ("l4", "l40s", "h200", "b200", "gb10"):
        chosen = select(LLAMA, recorded(name), NOTHING_ASKED).chosen
        memory = chosen.memory
        assert 0.97 * memory.budget < memory.total <= memory.budget, name


def test_17_what_others_hold_decides_and_is_told() -> None:
    """A desktop's windows changed what was "runnable", without a word."""
    crowded = host([card("H200", free=12)], ram=64)
    low = [c for c in rank(LLAMA, crowded, NOTHING_ASKED) if c.fit is Fit.LOW_MEMORY]
    assert any("Other processes hold 128.00 GiB there." in c.reason for c in low)
    halved = select(LLAMA, host([card("H200", free=70)], ram=64), NOTHING_ASKED).chosen
    assert "other processes hold 70.00 GiB there" in halved.reason
    empty = select(LLAMA, host([card("H200", free=139.5)], ram=64), NOTHING_ASKED).chosen
    assert "processes" not in empty.reason  # the driver's own share is nobody's
    beside = host([card("H200", 0, free=12), card("H200", 1)], ram=64)
    selection = select(LLAMA, beside, NOTHING_ASKED)
    assert selection.chosen.gpus == (1,)
    environ: dict[str, str] = {}
    choose_gpu(environ, Plan(settings=NOTHING_ASKED, machine=beside, selection=selection))
    assert environ == {"CUDA_VISIBLE_DEVICES": "GPU-1"}


def test_18_page_cache_is_not_counted_as_taken_where_memory_is_unified() -> None:
    """GB10: files that were read once made the GPU look full."""
    machine = recorded("gb10")
    [gpu] = machine.gpus
    assert gpu.unified_memory
    read = replace(machine, gpus=(replace(gpu, free_bytes=4 * GIB),))
    fresh, after = (select(LLAMA, m, NOTHING_ASKED).chosen for m in (machine, read))
    assert after.profile == fresh.profile
    assert after.memory.budget == int(0.9 * machine.memory.available_bytes)


def test_23_the_names_that_are_offered_are_those_that_work() -> None:
    for profile in LLAMA.profiles:
        asked = read_settings({"NIM_MODEL_PROFILE": f"{profile.id} ({profile.name})"})
        assert rank(LLAMA, host(several("H200", 8)), asked, EVERYTHING)[0].profile == profile


def test_one_replica_never_takes_every_gpu_without_need() -> None:
    """Latency first and the highest tp first gave one replica all the GPUs there were."""
    machine = recorded("h100-sxm-x8")
    chosen = select(LLAMA, machine, NOTHING_ASKED, EVERYTHING).chosen
    assert (chosen.profile.num_gpus, chosen.replicas) == (1, 7)
    assert "The other GPUs could hold 7 more of it." in chosen.reason

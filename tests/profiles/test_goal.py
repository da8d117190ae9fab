"""Goals, service levels, and the places that a profile may take."""

from dataclasses import replace

import pytest
from fakes.machines import card, host, several
from golden import EVERYTHING

from nimlite.errors import SettingError
from nimlite.probe.machine import Machine, MigSlice, machines_directory
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Precision
from nimlite.profiles.placement import placements
from nimlite.profiles.selection import Candidate, Fit, rank, select
from nimlite.settings import read_settings

LLAMA = load_manifest(profiles_directory() / "llama3-8b.yaml")
LARGE = load_manifest(profiles_directory() / "llama3-70b.yaml")
BOARD = Machine.load(machines_directory() / "h100-sxm-x8.json")


def chosen(machine: Machine = BOARD, **environ: str) -> Candidate:
    return select(LARGE, machine, read_settings(environ), EVERYTHING).chosen


def test_each_goal_gets_what_it_asks_for() -> None:
    latency, throughput, memory = (
        chosen(NIM_PROFILE_GOAL=goal) for goal in ("latency", "throughput", "memory")
    )
    assert latency.prediction and throughput.prediction and memory.prediction
    assert latency.profile.num_gpus > throughput.profile.num_gpus
    assert latency.prediction.load.concurrency == 1
    assert latency.prediction.itl < throughput.prediction.itl
    assert throughput.profile.num_gpus == 2
    assert memory.profile.num_gpus == 1
    assert memory.profile.precision in (Precision.INT4_AWQ, Precision.INT4_GPTQ)


def test_the_fewest_gpus_that_keep_the_service_levels() -> None:
    loose = chosen(NIM_SLO_ITL_MS="60", NIM_CONCURRENCY="8")
    tight = chosen(NIM_SLO_ITL_MS="14", NIM_CONCURRENCY="8")
    assert loose.prediction and tight.prediction
    assert loose.profile.num_gpus < tight.profile.num_gpus
    assert tight.prediction.itl <= 14e-3 and tight.prediction.load.concurrency == 8
    assert "It keeps the service levels." in tight.reason
    fewer = [
        c
        for c in rank(
            LARGE,
            BOARD,
            read_settings({"NIM_SLO_ITL_MS": "14", "NIM_CONCURRENCY": "8"}),
            EVERYTHING,
        )
        if c.prediction and c.profile.num_gpus < tight.profile.num_gpus
    ]
    assert fewer and all(
        c.prediction is not None and (c.prediction.itl > 14e-3 or c.prediction.load.concurrency < 8)
        for c in fewer
    )


def test_levels_that_nothing_keeps_are_said_not_to_be_kept() -> None:
    best = chosen(NIM_SLO_TTFT_MS="0.01")
    assert best.fit is Fit.RUNNABLE
    assert "It does not keep the service levels." in best.reason


def test_more_streams_than_fit_are_counted_as_not_kept() -> None:
    small = host([card("L4")], ram=1)
    best = select(
        LLAMA,
        small,
        read_settings({"NIM_CONCURRENCY": "500", "NIM_SLO_ITL_MS": "9999"}),
        EVERYTHING,
    ).chosen
    assert best.prediction is not None and best.prediction.load.concurrency < 500
    assert "It does not keep the service levels." in best.reason


def test_a_split_model_stays_on_one_island() -> None:
    pairs = host(several("H100", 4), islands=[(0, 1), (2, 3)])
    assert [tuple(g.index for g in gpus) for gpus in placements(pairs, 2)] == [(0, 1), (2, 3)]
    assert list(placements(pairs, 4)) == []
    ranked = rank(LARGE, pairs, read_settings({}), EVERYTHING)
    wide = next(c for c in ranked if c.profile.tp == 4 and c.profile.pp == 1)
    assert wide.reason == (
        "It needs 4 whole GPUs of one kind, of compute capability "
        f"{wide.reason.split('capability ')[1][:3]} or more, and with NVLink between all of them "
        "where the machine has it."
    )
    on_pcie = host(several("H100", 4))
    assert [len(gpus) for gpus in placements(on_pcie, 4)] == [4]


def test_the_emptiest_gpus_of_an_island_are_taken() -> None:
    cards = [card("H100", 0, free=10), card("H100", 1), card("H100", 2, free=70)]
    [taken] = placements(host(cards, islands=[(0, 1, 2)]), 2)
    assert [gpu.index for gpu in taken] == [1, 2]


def test_cards_of_different_kinds_are_never_mixed() -> None:
    mixed = host([card("A10", 0), card("H200", 1)], ram=64)
    assert [len(gpus) for gpus in placements(mixed, 2)] == []
    best = select(LLAMA, mixed, read_settings({})).chosen
    assert best.gpus == (1,) and "on NVIDIA H200 (GPU 1)" in best.reason


def test_a_model_is_not_split_over_mig_slices() -> None:
    part = MigSlice(profile="3g.71gb", parent="GPU-0", sm_share=0.43, memory_share=0.5)
    slices = [replace(card("H200", i, free=70), mig=part) for i in range(2)]
    assert list(placements(host(slices), 2)) == []
    best = select(LLAMA, host(slices, ram=64), read_settings({}), EVERYTHING).chosen
    assert "NVIDIA H200 3g.71gb (GPU 0)" in best.reason


@pytest.mark.parametrize(
    ("ram", "gpus", "sentence"),
    [
        (
            2,
            (),
            "No profile of llama3-8b can run here with a context of 512 tokens: there is no GPU, "
            "and 2.00 GiB of host memory. It takes one GPU of compute capability ",
        ),
        (2, ("T4",), "there is NVIDIA T4 with 15.00 GiB free, and 2.00 GiB of host memory."),
        (2, (), "or a host with 6.4"),
    ],
)
def test_where_nothing_runs_the_smallest_machine_is_named(
    ram: float, gpus: tuple[str, ...], sentence: str
) -> None:
    machine = host([card(name, i) for i, name in enumerate(gpus)], ram=ram)
    with pytest.raises(SettingError) as raised:
        select(LLAMA, machine, read_settings({}))
    assert sentence in str(raised.value)


def test_the_machine_that_is_named_is_large_enough() -> None:
    with pytest.raises(SettingError) as raised:
        select(LLAMA, host(ram=2), read_settings({}))
    gib = float(str(raised.value).split("a host with ")[1].split(" GiB")[0])
    best = select(LLAMA, host(ram=gib + 0.02), read_settings({})).chosen
    assert best.profile.name == "nimlite-int4-tp1-pp1-cpu"
    assert best.serving.max_model_len >= 512


def test_rather_a_short_context_than_none() -> None:
    with pytest.raises(SettingError) as raised:
        select(LLAMA, host(ram=2), read_settings({}))
    gib = float(str(raised.value).split("a host with ")[1].split(" GiB")[0])
    ranked = rank(LLAMA, host(ram=gib), read_settings({}))
    assert ranked[0].fit is Fit.LOW_MEMORY and ranked[0].remedy
    best = select(LLAMA, host(ram=gib), read_settings({})).chosen
    assert f"NIM_MAX_MODEL_LEN={best.serving.max_model_len}" == ranked[0].remedy

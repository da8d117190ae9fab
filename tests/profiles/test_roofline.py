"""Predictions against what was measured: docs/performance.md, "Predicted and measured"."""

from dataclasses import replace

import pytest
from fakes.machines import card, host

from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Device, Manifest, Precision, Profile
from nimlite.profiles.rates import Rates, rates
from nimlite.profiles.roofline import Load, predict
from nimlite.profiles.shape import ModelShape

LLAMA = load_manifest(profiles_directory() / "llama3-8b.yaml")
SMOLLM = load_manifest(profiles_directory() / "smollm2-135m.yaml")
MIXTRAL = load_manifest(profiles_directory() / "mixtral-8x7b.yaml")
H200 = host([card("H200")])


def profile_of(manifest: Manifest, device: Device, precision: str, tp: int = 1) -> Profile:
    found = next(
        p
        for p in manifest.profiles
        if (p.device, str(p.precision), p.tp, p.gpu) == (device, precision, tp, None)
    )
    return replace(found, max_num_tokens=8192)


@pytest.mark.parametrize(
    ("precision", "streams", "tokens_in", "tokens_out", "measured"),
    [
        ("bf16", 1, 128, 256, 220),
        ("bf16", 8, 128, 256, 1662),
        ("bf16", 64, 128, 256, 10250),
        ("bf16", 256, 128, 256, 18685),
        ("bf16", 1024, 128, 128, 18379),
        ("bf16", 512, 2048, 128, 2139),
        ("fp8", 1, 128, 256, 336),
        ("fp8", 8, 128, 256, 2555),
        ("fp8", 64, 128, 256, 14663),
        ("fp8", 256, 128, 256, 25088),
        ("fp8", 1024, 128, 128, 27896),
        ("fp8", 512, 2048, 128, 3228),
    ],
)
def test_an_h200(
    precision: str, streams: int, tokens_in: int, tokens_out: int, measured: float
) -> None:
    profile = profile_of(LLAMA, Device.GPU, precision)
    load = Load(concurrency=streams, input_length=tokens_in, output_length=tokens_out)
    found = predict(LLAMA.shape, profile, rates(profile, H200.gpus, H200, 1), load)
    assert found.total_tok_s == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize(
    ("precision", "decode", "first_ms", "eight"),
    [
        ("int4", 298, 76.7, 670),
        ("int8", 217, 80.2, 675),
        ("bf16", 130, 187, 318),
        ("fp32", 63, 198, 247),
    ],
)
def test_one_core(precision: str, decode: float, first_ms: float, eight: float) -> None:
    machine = host(cores=2)
    profile = replace(profile_of(SMOLLM, Device.CPU, precision), max_num_tokens=512)
    core = rates(profile, (), machine, 1)
    alone = predict(
        SMOLLM.shape, profile, core, Load(concurrency=1, input_length=200, output_length=128)
    )
    assert alone.stream_tok_s == pytest.approx(decode, rel=0.25)
    assert alone.ttft * 1e3 == pytest.approx(first_ms, rel=0.25)
    together = Load(concurrency=8, input_length=200, output_length=128)
    assert predict(SMOLLM.shape, profile, core, together).total_tok_s == pytest.approx(
        eight, rel=0.25
    )


def test_two_gpus_exchange_what_they_computed() -> None:
    pair = host([card("H200", 0), card("H200", 1)], islands=[(0, 1)])
    load = Load(concurrency=1, input_length=128, output_length=256)

    def speed(tp: int, place: Rates) -> float:
        profile = profile_of(LLAMA, Device.GPU, "fp8", tp)
        return predict(LLAMA.shape, profile, place, load).stream_tok_s

    one = speed(1, rates(profile_of(LLAMA, Device.GPU, "fp8"), pair.gpus[:1], pair, 1))
    split = profile_of(LLAMA, Device.GPU, "fp8", 2)
    linked = rates(split, pair.gpus, pair, 1)
    assert linked.has_nvlink and linked.link == 450e9
    two = speed(2, linked)
    # vLLM went from 286 to 351 tok/s
    assert 1.1 < two / one < 1.6
    on_pcie = rates(split, pair.gpus, replace(pair, links=()), 1)
    assert one < speed(2, on_pcie) * 1.2 and speed(2, on_pcie) < two


def test_a_mixture_reads_more_experts_the_more_tokens_choose() -> None:
    profile = profile_of(MIXTRAL, Device.GPU, "bf16")
    place = rates(profile, H200.gpus, H200, 1)

    def itl(streams: int, shape: ModelShape = MIXTRAL.shape) -> float:
        load = Load(concurrency=streams, input_length=16, output_length=256)
        return predict(shape, profile, place, load).itl

    dense = replace(MIXTRAL.shape, num_experts=1, experts_per_token=1)
    assert itl(1) < 2 * itl(1, dense)
    assert itl(8) > 2.5 * itl(1)


def test_a_measured_bandwidth_below_the_data_sheet_counts() -> None:
    profile = profile_of(LLAMA, Device.GPU, "bf16")
    slow = replace(card("H200"), measured_bandwidth=2.4e12)
    assert rates(profile, [slow], H200, 1).bandwidth == pytest.approx(2.4e12 / 0.93)
    usual = replace(card("H200"), measured_bandwidth=4.5e12)
    assert rates(profile, [usual], H200, 1).bandwidth == 4.8e12


def test_every_precision_of_every_manifest_has_an_efficiency() -> None:
    machine = host([card("H200")])
    load = Load(concurrency=1, input_length=16, output_length=16)
    seen = set()
    for profile in (*LLAMA.profiles, *SMOLLM.profiles):
        place = rates(profile, machine.gpus if profile.num_gpus else (), machine, 1)
        assert predict(LLAMA.shape, profile, place, load).total_tok_s > 0
        seen.add(profile.precision)
    assert seen == set(Precision)

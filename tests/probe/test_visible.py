"""CUDA_VISIBLE_DEVICES: the rules of CUDA's documentation, and any text at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimlite.probe.visible import container_request, visible_devices

A, B, C = "GPU-aa11", "GPU-ab22", "GPU-cc33"
CARDS = [(A,), (B,), (C,)]


@pytest.mark.parametrize(
    ("value", "order"),
    [
        (None, (0, 1, 2)),
        ("0", (0,)),
        ("2,0", (2, 0)),
        (" 1 , 2", (1, 2)),
        # The CUDA programming guide's own example: what follows an invalid one is hidden.
        ("0,2,-1,1", (0, 2)),
        ("0,9,1", (0,)),
        ("9", ()),
        ("-1", ()),
        ("", ()),
        ("  ", ()),
        ("0,,1", (0,)),
        ("none", ()),
        ("0,0", ()),
        ("1,2,1", ()),
        ("1card,+2", (1, 2)),
        (B, (1,)),
        (f"{C},{A}", (2, 0)),
        ("GPU-c", (2,)),
        ("GPU-a", ()),
        ("GPU-", ()),
        (f"{A},GPU-ffff,{B}", (0,)),
        (B.upper(), (1,)),
        ("gpu-ab22", ()),
        # The first entry decides whether all are numbers or UUIDs.
        (f"0,{B}", (0,)),
        (f"{B},0", (1,)),
        (f" {B}", ()),
    ],
)
def test_cards(value: str | None, order: tuple[int, ...]) -> None:
    assert visible_devices(value, CARDS).order == order


UUID = "GPU-92b7f69e-0000-7056-d9c3-39270e901c53"


@pytest.mark.parametrize(
    "value",
    [
        *("0", "0,1", "0,-1", " 0", "0 ", "+0", "00", "0x0", "0gpu", "0,abc", "0,", "0,,0", "0;1"),
        *(UUID, UUID[:12], f"GPU-{UUID[4:].upper()}", f"0,{UUID}", f"{UUID},0", f"{UUID} "),
        *(f"{UUID}x", "4294967296", "0.5", "\t0"),
    ],
)
def test_what_showed_the_only_gpu_of_a_machine(value: str) -> None:
    """Seen on an H200 with driver 580.159, as the next."""
    assert visible_devices(value, [(UUID,)]).order == (0,)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "-1", "0,0", "1,0", "-1,0", "abc", "abc,0", ",0", "none", "all", "NoDevFiles"),
        *("GPU-", "GPU", UUID.lower(), UUID[4:], f"{UUID},{UUID}", f"{UUID},{UUID[:10]}"),
        *(f" {UUID}", "GPU-ffff", f"GPU-ffff,{UUID}", f"MIG-{UUID}/0/0", "MIG-"),
        "99999999999999999999",
    ],
)
def test_what_hid_it(value: str) -> None:
    assert visible_devices(value, [(UUID,)]).order == ()


def test_mig_slices_by_both_of_their_names() -> None:
    slices = [("MIG-1234", "MIG-GPU-aa11/7/0"), ("MIG-5678", "MIG-GPU-aa11/8/0")]
    assert visible_devices("MIG-5678", slices).order == (1,)
    assert visible_devices("MIG-GPU-aa11/7/0", slices).order == (0,)
    assert visible_devices("MIG-GPU-aa11", slices).order == ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1", "CUDA_VISIBLE_DEVICES=1 leaves it out."),
        ("", "CUDA_VISIBLE_DEVICES is set but empty, so CUDA shows no GPU."),
        ("0,-1", "CUDA_VISIBLE_DEVICES=0,-1 ends at -1."),
        ("0,0", "CUDA_VISIBLE_DEVICES=0,0 names a GPU twice, and CUDA does not start."),
        (
            "0,7,1",
            "CUDA_VISIBLE_DEVICES=0,7,1: '7' is none of the 3 GPU(s) here, and CUDA ends the list "
            "there.",
        ),
        (
            "GPU-a",
            "CUDA_VISIBLE_DEVICES=GPU-a: 'GPU-a' fits 2 GPUs, and CUDA ends the list there.",
        ),
    ],
)
def test_the_reason_is_a_sentence(value: str, reason: str) -> None:
    assert visible_devices(value, CARDS).reason == reason


@given(
    st.text() | st.lists(st.sampled_from(["0", "1", "-1", A, B, "GPU-", " 2", "x"])).map(",".join)
)
def test_no_text_crashes_it(value: str) -> None:
    found = visible_devices(value, CARDS)
    assert len(set(found.order)) == len(found.order)
    assert all(0 <= device < len(CARDS) for device in found.order)
    assert found.reason


@given(st.permutations(range(3)), st.integers(0, 3))
def test_a_list_of_numbers_is_the_order(numbers: list[int], length: int) -> None:
    chosen = numbers[:length]
    value = ",".join(map(str, chosen)) or "-1"
    assert visible_devices(value, CARDS).order == tuple(chosen)
    assert visible_devices(f"{value},-1,0", CARDS).order == tuple(chosen)


@pytest.mark.parametrize(
    ("value", "count", "sentence"),
    [
        (None, 0, None),
        ("all", 0, None),
        ("void", 4, None),
        ("0,1", 2, None),
        ("GPU-aa11", 1, None),
        ("none", 0, "NVIDIA_VISIBLE_DEVICES=none asks for none."),
        ("", 0, "NVIDIA_VISIBLE_DEVICES= asks for none."),
        ("0,GPU-cc33", 3, "NVIDIA_VISIBLE_DEVICES=0,GPU-cc33 names 2 of the 3 GPUs here, but only"),
    ],
)
def test_the_container_runtimes_variable_only_explains(
    value: str | None, count: int, sentence: str | None
) -> None:
    assert str(container_request(value, count)).startswith(str(sentence))


@given(st.none() | st.text(), st.integers(0, 8))
def test_no_text_of_it_crashes(value: str | None, count: int) -> None:
    container_request(value, count)

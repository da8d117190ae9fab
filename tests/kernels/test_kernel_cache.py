"""Choices and compiled kernels are found again: after a move, and only by the same device."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton
import triton_cases  # noqa: F401 (leaves the module out where Triton is missing)
from triton.runtime.cache import get_cache_manager

from nimlite.kernels.triton import kernel_cache
from nimlite.kernels.triton.kernel_cache import KernelCache, MovableCacheManager, fingerprint
from nimlite.kernels.triton.linear import ROW_BUCKETS
from nimlite.kernels.triton.tuning import choice_key
from nimlite.kernels.triton.weights import BF16_ROWS, FP8_ROWS
from nimlite.quant.base import PackedWeight, Scheme

CPU = torch.device("cpu")
PRODUCTS: list[tuple[Scheme, int, int]] = [(BF16_ROWS, 32, 16), (FP8_ROWS, 64, 16)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The schemes that were measured; measuring itself needs a GPU."""
    asked: list[str] = []

    def choose(products: list[tuple[Scheme, int, int]], *_: object) -> dict[str, object]:
        asked.extend(scheme.name for scheme, _, _ in products)
        return {
            choice_key(PackedWeight(scheme.name, n, c, {}), rows): {"config": None}
            for scheme, n, c in products
            for rows in ROW_BUCKETS
        }

    monkeypatch.setattr(kernel_cache, "choose", choose)
    return asked


def test_what_was_chosen_is_kept(tmp_path: Path, asked: list[str]) -> None:
    first = KernelCache(tmp_path, CPU).choices(PRODUCTS[:1], torch.bfloat16)
    assert KernelCache(tmp_path, CPU).choices(PRODUCTS[:1], torch.bfloat16) == first
    assert asked == ["bf16_rows"]
    both = KernelCache(tmp_path, CPU).choices([*PRODUCTS, *PRODUCTS], torch.bfloat16)
    assert asked == ["bf16_rows", "fp8_rows"]
    file = tmp_path / fingerprint(CPU) / "choices.json"
    assert json.loads(file.read_text()) == both and len(both) == 2 * len(ROW_BUCKETS)
    file.write_text("{")
    assert KernelCache(tmp_path, CPU).choices(PRODUCTS, torch.bfloat16) == both
    assert [path.name for path in file.parent.iterdir()] == ["choices.json"]


def test_another_version_makes_its_own(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    KernelCache(tmp_path, CPU).choices(PRODUCTS, torch.bfloat16)
    monkeypatch.setattr(triton, "__version__", "0.0")
    KernelCache(tmp_path, CPU).choices(PRODUCTS, torch.bfloat16)
    assert asked == ["bf16_rows", "fp8_rows"] * 2 and len(list(tmp_path.iterdir())) == 2


def test_another_driver_or_gpu_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint_on(gpu: str, driver: str) -> str:
        properties = SimpleNamespace(name=gpu, major=9, minor=0, multi_processor_count=132)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(kernel_cache, "_driver_version", lambda: driver)
        return fingerprint(torch.device("cuda", 0))

    known = [
        fingerprint_on(gpu, driver)
        for gpu in ("NVIDIA H100", "NVIDIA H200")
        for driver in ("570.1", "580.2")
    ]
    assert len({*known, fingerprint(CPU)}) == 5


def test_compiled_kernels_are_found_where_the_engine_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "nowhere"))
    with triton.knobs.cache.scope():
        cache = KernelCache(tmp_path / "building", CPU)
        cache.activate()
        manager = get_cache_manager("ab" * 32)
        assert isinstance(manager, MovableCacheManager)
        kernel = manager.put(b"code", "k.cubin")
        manager.put_group("k.json", {"k.cubin": kernel})
        assert Path(kernel).is_relative_to(cache.path / "triton")
        (tmp_path / "building").rename(tmp_path / "engine")
        moved = KernelCache(tmp_path / "engine", CPU)
        moved.activate()
        group = get_cache_manager("ab" * 32).get_group("k.json")
        assert group is not None
        assert Path(group["k.cubin"]).read_bytes() == b"code"
        assert get_cache_manager("cd" * 32).get_group("k.json") is None


def test_a_directory_that_can_not_be_written(
    tmp_path: Path, asked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kernels").write_text("a file")
    cache = KernelCache(tmp_path / "kernels", CPU)
    before = triton.knobs.cache.dir
    cache.activate()
    assert triton.knobs.cache.dir == before
    assert "can't be written: kernels are compiled at every start" in caplog.text
    assert cache.choices(PRODUCTS, torch.bfloat16) and asked

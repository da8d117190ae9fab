"""Which package can run plans on a GPU, and why not."""

import sys
from pathlib import Path

import pytest
import tensorrt_rtx as trt

from nimlite.tensorrt.runtime import UnavailableError, find_runtime

RTX = "tensorrt_rtx"


def test_what_is_installed_and_supports_the_gpu_is_found() -> None:
    assert find_runtime((8, 9), ("no_such_tensorrt", RTX)) is trt


def test_on_hopper_there_is_none_and_each_package_says_why() -> None:
    with pytest.raises(UnavailableError) as refusal:
        find_runtime((9, 0), ("no_such_tensorrt", RTX))
    assert str(refusal.value) == (
        "no_such_tensorrt is not installed; tensorrt_rtx "
        f"{trt.__version__} does not run on compute capability 9.0, only on 7.5, 8.0, 8.6, 8.9, "
        "12.0, 12.1"
    )


def test_a_package_without_its_libraries_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_runtime((8, 9), ("half_tensorrt", RTX)) is trt
    with pytest.raises(UnavailableError) as refusal:
        find_runtime((8, 9), ("half_tensorrt",))
    assert str(refusal.value) == "half_tensorrt can't be imported (libnvinfer.so.11: not found)"
    assert "half_tensorrt" not in sys.modules

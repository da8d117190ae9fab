"""Which of torch and TensorRT is chosen, in one line."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import tensorrt_rtx as trt
import torch
from fakes.trt_network import TINY_SPEC

from nimlite.tensorrt.plan import PlanRequest, build_plan
from nimlite.tensorrt.runtime import choose_runtime, refusal
from nimlite.tensorrt.segment import Segment
from nimlite.tensorrt.target import supported_capabilities

RTX = ("tensorrt_rtx",)


def agrees(module: ModuleType) -> str | None:
    return None


def test_what_passes_its_smoke_run_is_chosen() -> None:
    chosen = choose_runtime((8, 9), agrees, RTX)
    assert chosen.name == "tensorrt_rtx"
    assert str(chosen) == (
        "tensorrt_rtx runs the dense layers: its smoke run on compute capability 8.9 agreed."
    )


def test_on_hopper_torch_runs_and_the_line_says_why() -> None:
    chosen = choose_runtime((9, 0), agrees, ("no_such_tensorrt", *RTX))
    assert chosen.name == "torch"
    assert str(chosen) == (
        "torch runs the dense layers: no_such_tensorrt is not installed; tensorrt_rtx "
        f"{trt.__version__} does not run on compute capability 9.0, only on 7.5, 8.0, 8.6, 8.9, "
        "12.0, 12.1."
    )


def test_what_fails_its_smoke_run_is_not_chosen() -> None:
    chosen = choose_runtime((8, 9), lambda module: "the logits differ by 0.3", RTX)
    assert str(chosen) == (
        f"torch runs the dense layers: tensorrt_rtx {trt.__version__} failed its smoke run (the "
        "logits differ by 0.3)."
    )


def test_a_package_without_its_libraries_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = choose_runtime((8, 9), agrees, ("half_tensorrt", *RTX))
    assert chosen.name == "tensorrt_rtx"
    refused = choose_runtime((8, 9), agrees, ("half_tensorrt",))
    assert str(refused) == (
        "torch runs the dense layers: half_tensorrt can't be imported (libnvinfer.so.11: not "
        "found)."
    )
    assert "half_tensorrt" not in sys.modules


def test_a_real_plan_is_refused_where_there_is_no_gpu_for_it() -> None:
    segment = Segment(kind="middle", spec=TINY_SPEC, dtype="fp16", max_tokens=8)
    listed = supported_capabilities(trt)
    plan = build_plan(trt, PlanRequest(segment=segment, targets=listed))
    can_run = torch.cuda.is_available() and torch.cuda.get_device_capability() in listed
    reason = refusal(trt, plan)
    assert (reason is None) == can_run
    chosen = choose_runtime((8, 9), lambda module: refusal(module, plan), RTX)
    assert chosen.name == ("tensorrt_rtx" if can_run else "torch")
    assert can_run or f"failed its smoke run ({reason})" in str(chosen)


def test_what_is_no_plan_is_refused() -> None:
    assert "incompatible serialization version" in str(refusal(trt, b"no plan" * 100))

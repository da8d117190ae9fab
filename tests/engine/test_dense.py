"""Torch or TensorRT's plans: which is chosen, and the line that says why."""

import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tensorrt_rtx as trt
import torch
from fakes.llama import Llama, random_llama
from fakes.trt_runtime import REFUSAL, STREAM, FakeTensorRT

from nimlite.engine.dense import DenseLayers
from nimlite.engine.request import SamplingParams
from nimlite.errors import BuildError, SettingError
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.layers.decoder import Decoder
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Device, Precision
from nimlite.quant import unpack
from nimlite.quant.base import PackedWeight
from nimlite.settings.values import DenseBackend
from nimlite.tensorrt.decoder import SegmentedDecoder, Tensors
from nimlite.tensorrt.plans import read_plans, wanted_plans

RTX = ("tensorrt_rtx",)
HOPPER, ADA = (9, 0), (8, 9)
WAY_OUT = (
    " NIM_BACKEND=auto (or --backend auto) takes nimlite's own kernels (torch) where it does not"
    " run."
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def built(llama: Llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plans")
    layers(llama, DenseBackend.AUTO).prepare(llama.spec, directory, SILENT)
    return directory


@pytest.fixture
def planned(built: Path, llama: Llama, module: FakeTensorRT, tmp_path: Path) -> Path:
    """An engine directory with plans."""
    directory = tmp_path / "planned"
    shutil.copytree(built, directory)
    wanted = wanted_plans(llama.spec, layers(llama, None).profile, ADA, RTX)
    module.know(directory, read_plans(directory, wanted), llama.spec)
    return directory


@pytest.fixture
def module(built: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)
    return fake


def in_fp16(weight: PackedWeight) -> Tensors:
    return {"": unpack(weight).half()}


def layers(
    llama: Llama, wanted: DenseBackend | None, capability: tuple[int, int] = ADA
) -> DenseLayers:
    profile = llama.profile(Precision.FP32, max_num_tokens=128)
    return DenseLayers(
        wanted=wanted,
        profile=replace(profile, device=Device.GPU, precision=Precision.FP16),
        capability=capability,
        device=torch.device("cpu"),
        stream=lambda: STREAM,
        packages=RTX,
        binder=lambda weights, max_group: in_fp16,
    )


def chosen(dense: DenseLayers, llama: Llama, directory: Path) -> Decoder | SegmentedDecoder:
    decoder, weights = llama.decoder(), llama.weights(Precision.FP32)
    compiled = directory / "kernels" / "gpu" / "tensorrt.cache"
    choice = dense.choose(directory, weights, lambda: decoder, TorchKernels(), compiled, SILENT)
    model = choice(decoder)
    assert isinstance(model, Decoder | SegmentedDecoder)
    return model


@pytest.mark.parametrize("wanted", [DenseBackend.TENSORRT, DenseBackend.AUTO])
def test_plans_that_agree_run(
    llama: Llama,
    module: FakeTensorRT,
    planned: Path,
    caplog: pytest.LogCaptureFixture,
    wanted: DenseBackend,
) -> None:
    dense = layers(llama, wanted)
    assert dense.named(llama.spec) == (
        f"tensorrt_rtx {trt.__version__} for compute capability 8.9, fp16 with dense weights, steps"
        " of up to 128 tokens"
    )
    with caplog.at_level(logging.INFO):
        model = chosen(dense, llama, planned)
    assert isinstance(model, SegmentedDecoder)
    assert f"tensorrt_rtx {trt.__version__} runs the dense layers: in its smoke run" in caplog.text
    middle = next(c.segment for c in module.contexts if c.segment.kind == "middle")
    assert module.runs(middle, (1, 16, 80))
    assert (planned / "kernels" / "gpu" / "tensorrt.cache").read_bytes() == b"compiled"


def test_an_engine_runs_on_plans_and_writes_the_same(llama: Llama, planned: Path) -> None:
    """Greedy tokens of a sharp model, fp16 beside fp32."""
    dense = layers(llama, DenseBackend.TENSORRT)
    choose = dense.choose(
        *(planned, llama.weights(Precision.FP32), llama.decoder, TorchKernels()),
        *(planned / "compiled", SILENT),
    )
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    prompts = [list(range(70)), [5, 6, 7]]
    found = [
        llama.engine(TorchKernels(), dense=each, max_num_tokens=128).generate(prompts, params)
        for each in (None, choose)
    ]
    assert found[0] == found[1]


def test_an_engine_that_was_built_for_plans_takes_them_unasked(
    llama: Llama, planned: Path, tmp_path: Path
) -> None:
    unasked = layers(llama, None)
    assert isinstance(chosen(unasked, llama, tmp_path), Decoder)
    assert isinstance(chosen(unasked, llama, planned), SegmentedDecoder)
    assert isinstance(chosen(layers(llama, DenseBackend.TORCH), llama, planned), Decoder)


def test_torch_builds_no_plans(llama: Llama, tmp_path: Path) -> None:
    for wanted in (None, DenseBackend.TORCH):
        dense = layers(llama, wanted)
        assert dense.named(llama.spec) == "torch"
        dense.prepare(llama.spec, tmp_path, SILENT)
    assert list(tmp_path.iterdir()) == []


Spoil = Callable[[FakeTensorRT, Path], None]


def refuse(module: FakeTensorRT, directory: Path) -> None:
    module.refuses = True


def err(module: FakeTensorRT, directory: Path) -> None:
    module.error = 0.2


def overflow(module: FakeTensorRT, directory: Path) -> None:
    module.error = float("inf")


def record_nothing(module: FakeTensorRT, directory: Path) -> None:
    module.is_recordable = False


def update(module: FakeTensorRT, directory: Path) -> None:
    module.__version__ = "1.8"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (refuse, REFUSAL),
        (err, "its smoke run failed: the logits differ from torch's by 0."),
        (overflow, "its smoke run failed: The engine's logits for a prompt of 1 tokens are not"),
        (record_nothing, "a CUDA graph can't hold what it runs"),
        (update, f"the engine's plans are of tensorrt_rtx {trt.__version__} for"),
    ],
)
def test_plans_that_do_not_serve_are_not_taken(
    llama: Llama,
    module: FakeTensorRT,
    planned: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Spoil,
    reason: str,
) -> None:
    spoil(module, planned)
    assert isinstance(chosen(layers(llama, DenseBackend.AUTO), llama, planned), Decoder)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"torch runs the dense layers: {reason}")
    with pytest.raises(SettingError) as refusal:
        chosen(layers(llama, DenseBackend.TENSORRT), llama, planned)
    assert str(refusal.value).startswith(
        "The backend tensorrt was asked for, but TensorRT can't run the dense layers here:"
        f" {reason}"
    )
    assert str(refusal.value).endswith(WAY_OUT)


def test_on_hopper_torch_runs_and_the_line_says_why(
    llama: Llama, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reason = (
        f"tensorrt_rtx {trt.__version__} does not run on compute capability 9.0, only on 7.5, 8.0,"
        " 8.6, 8.9, 12.0, 12.1"
    )
    auto = layers(llama, DenseBackend.AUTO, HOPPER)
    assert auto.named(llama.spec) == "torch"
    auto.prepare(llama.spec, tmp_path, SILENT)
    assert isinstance(chosen(auto, llama, tmp_path), Decoder)
    assert [record.getMessage() for record in caplog.records] == [
        f"torch runs the dense layers: {reason}."
    ]
    with pytest.raises(SettingError) as refusal:
        layers(llama, DenseBackend.TENSORRT, HOPPER).named(llama.spec)
    assert str(refusal.value) == (
        "The backend tensorrt was asked for, but TensorRT can't run the dense layers here:"
        f" {reason}.{WAY_OUT}"
    )


def test_plans_that_can_not_be_built_are_an_error_only_where_they_were_asked_for(
    llama: Llama, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No network has no features."""
    spec = replace(llama.spec, hidden_size=0)
    layers(llama, DenseBackend.AUTO).prepare(spec, tmp_path, SILENT)
    assert "did not build the first segment for 8.9: ITensor" in caplog.text
    with pytest.raises(BuildError, match=r"did not build the first segment for 8\.9"):
        layers(llama, DenseBackend.TENSORRT).prepare(spec, tmp_path, SILENT)
    assert isinstance(chosen(layers(llama, DenseBackend.AUTO), llama, tmp_path), Decoder)


def test_where_nothing_can_be_written_tensorrt_compiles_again(
    llama: Llama, planned: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense = layers(llama, DenseBackend.AUTO)
    (planned / "kernels").write_text("a file")
    assert isinstance(chosen(dense, llama, planned), SegmentedDecoder)
    assert "tensorrt.cache can't be written: TensorRT compiles at every start" in caplog.text

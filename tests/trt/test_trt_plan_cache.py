"""Plans are kept under the digest of what shaped them."""

from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import tensorrt_rtx as trt
from fakes.trt_network import TINY_SPEC

from nimlite.errors import TargetError
from nimlite.models.spec import RopeSpec
from nimlite.tensorrt import plan_cache
from nimlite.tensorrt.plan import PlanRequest, build_plan
from nimlite.tensorrt.plan_cache import PlanCache, plan_key
from nimlite.tensorrt.segment import Segment

SEGMENT = Segment(kind="middle", spec=TINY_SPEC, dtype="bf16", max_tokens=64)
REQUEST = PlanRequest(segment=SEGMENT, targets=((8, 9),))


@pytest.mark.parametrize(
    "changed",
    [
        replace(REQUEST, targets=((12, 0),)),
        replace(REQUEST, segment=replace(SEGMENT, kind="last")),
        replace(REQUEST, segment=replace(SEGMENT, dtype="fp16")),
        replace(REQUEST, segment=replace(SEGMENT, weights="int8")),
        replace(REQUEST, segment=replace(SEGMENT, max_tokens=65)),
        replace(REQUEST, segment=replace(SEGMENT, spec=replace(TINY_SPEC, norm_eps=1e-6))),
        replace(REQUEST, segment=replace(SEGMENT, spec=replace(TINY_SPEC, qkv_bias=True))),
    ],
)
def test_all_that_shapes_a_plan_is_in_its_key(changed: PlanRequest) -> None:
    assert plan_key(trt, changed) != plan_key(trt, REQUEST)


def test_another_version_or_module_has_other_plans() -> None:
    for name, version in (("tensorrt_rtx", "1.8"), ("tensorrt", trt.__version__)):
        module = ModuleType(name)
        vars(module)["__version__"] = version
        assert plan_key(module, REQUEST) != plan_key(trt, REQUEST)


def test_what_shapes_no_plan_is_not_in_its_key() -> None:
    spec = replace(
        TINY_SPEC, num_layers=32, rope=RopeSpec(theta=5e5, scaling={"rope_type": "llama3"})
    )
    same = replace(REQUEST, segment=replace(SEGMENT, spec=spec))
    assert plan_key(trt, same) == plan_key(trt, REQUEST)


def test_a_plan_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def counted(module: ModuleType, request: PlanRequest) -> bytes:
        built.append(request)
        return build_plan(module, request)

    monkeypatch.setattr(plan_cache, "build_plan", counted)
    cache = PlanCache(tmp_path / "plans")
    plans: list[bytes] = []
    askers: list[Any] = [
        Thread(target=lambda: plans.append(cache.plan(trt, REQUEST))) for _ in range(3)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert built == [REQUEST]
    assert len(plans) == 3 and len(set(plans)) == 1
    names = {path.name for path in cache.directory.iterdir()}
    assert names == {f"{plan_key(trt, REQUEST)}.plan", "plans.lock"}


def test_a_refused_plan_leaves_nothing(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path)
    with pytest.raises(TargetError):
        cache.plan(trt, replace(REQUEST, targets=((9, 0),)))
    assert [path.name for path in tmp_path.iterdir()] == ["plans.lock"]

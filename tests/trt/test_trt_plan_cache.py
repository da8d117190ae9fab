"""Plans are kept under the digest of what shaped them."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
import tensorrt_rtx as trt
from fakes.trt_network import TINY_SPEC
from fakes.trt_runtime import FakeTensorRT

from nimlite.errors import TargetError
from nimlite.models.spec import RopeSpec
from nimlite.store.digest import digest_files
from nimlite.store.inventory import ENGINE_FILE
from nimlite.tensorrt import plan_cache
from nimlite.tensorrt.plan import PlanRequest
from nimlite.tensorrt.plan_cache import PlanCache, carry_over, plan_key
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


def sealed(directory: Path) -> Path:
    """What stands in an engine.json of its files."""
    names = {path.name for path in directory.iterdir()}
    files = {name: asdict(digest) for name, digest in digest_files(directory, names).items()}
    (directory / ENGINE_FILE).write_text(json.dumps({"files": files}))
    return directory


def test_a_plan_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PlanCache(tmp_path)
    first = cache.plan(trt, REQUEST)
    assert first.name == f"{plan_key(trt, REQUEST)}.plan"
    monkeypatch.setattr(plan_cache, "build_plan", None)
    assert cache.plan(trt, REQUEST) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_plans_that_nothing_names_any_more_go(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path)
    (tmp_path / "old.plan").write_bytes(b"plan")
    (tmp_path / "tokenizer.json").write_text("{}")
    cache.keep({cache.plan(trt, REQUEST).name})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{plan_key(trt, REQUEST)}.plan", "tokenizer.json"}


def test_a_refused_plan_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TargetError):
        PlanCache(tmp_path).plan(trt, replace(REQUEST, targets=((9, 0),)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_tensorrt_measured_is_kept_beside_its_plans(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path)
    cache.plan(FakeTensorRT("tensorrt"), REQUEST)
    assert (tmp_path / "timing.cache").read_bytes()


def test_whole_plans_are_carried_over_to_the_next_build(tmp_path: Path) -> None:
    engine, target = tmp_path / "engine", tmp_path / "engine.building"
    engine.mkdir(), target.mkdir()
    for name in ("a.plan", "b.plan", "timing.cache", "tokenizer.json"):
        (engine / name).write_text(name)
    sealed(engine)
    (engine / "b.plan").write_text("a.plan")
    (engine / "unsealed.plan").write_text("plan")
    carry_over(engine, target)
    assert {path.name for path in target.iterdir()} == {"a.plan", "timing.cache"}
    assert (target / "a.plan").read_text() == "a.plan"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"files": {"a.plan": 3}}'])
def test_of_what_is_no_engine_nothing_is_carried_over(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / ENGINE_FILE).write_text(content)
    (tmp_path / "target").mkdir()
    carry_over(tmp_path, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []

"""Manifests: the committed ones are right, and a wrong one is answered with place and remedy."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nimlite.errors import ManifestError
from nimlite.profiles.generate import generate_manifest
from nimlite.profiles.load import load_manifest, load_manifests, profiles_directory
from nimlite.profiles.manifest import Device, Precision

SMOLLM = profiles_directory() / "smollm2-135m.yaml"
GOOD = SMOLLM.read_text()


def test_committed_manifests() -> None:
    manifests = load_manifests(profiles_directory())
    assert [m.family for m in manifests] == [p.stem for p in sorted(SMOLLM.parent.glob("*.yaml"))]
    ids = [profile.id for manifest in manifests for profile in manifest.profiles]
    assert len(set(ids)) == len(ids)
    assert all(len(id) == 64 for id in ids)


CPU_PRECISIONS = [
    "int8_sq",
    "int8_wo",
    "int4_awq",
    "int4_gptq",
    "int4",
    "int8",
    "bf16",
    "fp32",
    "fp8",
]


def test_the_embedded_model() -> None:
    manifest = load_manifest(SMOLLM)
    assert manifest.num_parameters == pytest.approx(134.5e6, rel=0.01)
    assert manifest.artifact.size == 98362432
    assert manifest.checkpoint_precision is Precision.INT4
    on_cpu = [p for p in manifest.profiles if p.device is Device.CPU]
    assert [p.name for p in on_cpu] == [
        f"nimlite-{precision}-tp1-pp1-cpu" for precision in CPU_PRECISIONS
    ]
    assert [str(p.kv_precision) for p in on_cpu] == [*["bf16"] * 7, "fp32", "bf16"]
    assert on_cpu[0].tags["precision"] == "int8_sq"


def test_an_id_is_the_digest_of_the_content_and_not_of_its_order(tmp_path: Path) -> None:
    profile = load_manifest(SMOLLM).profiles[0]
    assert profile.identified() == profile
    assert replace(profile, max_batch_size=1).identified().id != profile.id
    copy = tmp_path / "copy.yaml"
    turned = "{block_size: 64, device: gpu, precision:"
    copy.write_text(
        GOOD.replace(", block_size: 64}", "}").replace("{device: gpu, precision:", turned)
    )
    assert load_manifest(copy).profiles[0].id == profile.id


@pytest.mark.parametrize(
    ("old", "new", "line_of", "sentence"),
    [
        ("license:", "licence:", "licence:", "licence: unknown key; the nearest known one is lic"),
        ("  size:", "  sise:", "sise:", "artifact.sise: unknown key; the nearest known one is si"),
        ("  head_dim:", "  head_dims:", "head_dims:", "shape.head_dims: unknown key; the nearest"),
        ("int8, bf16", "int7, bf16", "int7", "profiles.3.precision: expected is 'fp3"),
        ("max_model_len: 8192", "max_model_len: x", "max_model_len: x", "defaults.max_model"),
        ("max_model_len: 8192", "max_model_len: 0", "max_model_len: 0", "is greater than 0, not 0"),
        ("{device: cpu", "{id: a, device: cpu", "id: a", "profiles.2.id: unknown key"),
        ("num_layers: 30", "num_layers: 30.5", "num_layers:", "shape.num_layers: expected is a "),
        ("license:", "family: x\nlicense:", "family: x", "family: this key is given twice"),
        ("  head_dim: 64\n", "", "architecture:", "shape.head_dim: this key is missing"),
        ("defaults:\n", "defaults: 1\nother:\n", "other:", "other: unknown key"),
        ("family: smollm2-135m", "family: [", "served_name", "not YAML: "),
        ("int4, int8,", "int4, int4,", "int4, int4", "nimlite-int4-tp1-pp1-cpu is there already"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_located(
    tmp_path: Path, old: str, new: str, line_of: str, sentence: str
) -> None:
    path = tmp_path / "wrong.yaml"
    text = GOOD.replace(old, new, 1)
    path.write_text(text)
    with pytest.raises(ManifestError) as raised:
        load_manifest(path)
    lines = [i for i, line in enumerate(text.splitlines(), 1) if line_of in line]
    place, _, said = str(raised.value).partition(": ")
    assert sentence in said
    assert place in [f"{path}:{line}" for line in lines]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- 1", ":1: a mapping of keys to values is expected."),
        ("", ":1: a mapping of keys to values is expected."),
        ("family: x\nprofiles: []", "profiles: a list of at least one profile is expected."),
        ("family: x\nprofiles: [1]", ":2: profiles.0: a mapping is expected."),
        ("defaults: 1\nprofiles: [1]", ":1: defaults: a mapping is expected."),
        ("family: 2020-01-01\nprofiles: [{}]", "display_name: this key is missing."),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError) as raised:
        load_manifest(path)
    assert sentence in str(raised.value)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.yaml can't be read: .*No such file"):
        load_manifest(tmp_path / "none.yaml")


def test_a_generated_manifest_has_the_same_profiles() -> None:
    known = load_manifest(SMOLLM)
    generated = generate_manifest("smollm2-135m", known.shape, known.artifact)
    assert {p.id for p in generated.profiles} == {p.id for p in known.profiles}


def test_reading_manifests_does_not_import_torch() -> None:
    code = "import nimlite.profiles.selection, nimlite.profiles.load, sys"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

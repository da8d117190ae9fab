"""A checkpoint converted first, and built from its converted weights then."""

import dataclasses
import json
from pathlib import Path

import pytest
from fakes.llama import Llama

from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.calibration import default_text
from nimlite.build.calibration_file import CalibrationFile
from nimlite.build.conversion import ConversionJob, convert_checkpoint
from nimlite.build.converted_dir import ConvertedDirectory, open_converted
from nimlite.build.engine_dir import open_engine
from nimlite.errors import BuildError, ChecksumError, ModelError, SettingError
from nimlite.observe.bars import LineProgress
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision

NAMES = {"model_name": "Tiny", "served_name": "tiny", "source": "hf://org/tiny"}


def converted(
    llama: Llama, home: Path, precision: Precision, text: str | None = None
) -> ConvertedDirectory:
    calibration = text and CalibrationFile(text=text, named="--calibration=t.txt")
    job = ConversionJob(
        checkpoint=llama.checkpoint,
        profile=llama.profile(precision),
        calibration=calibration or None,
        **NAMES,
    )
    return convert_checkpoint(job, home, SILENT, llama.target(precision))


def build_job(llama: Llama, precision: Precision, **more: object) -> BuildJob:
    profile = llama.profile(precision)
    return BuildJob(checkpoint=llama.checkpoint, profile=profile, device="cpu", **NAMES, **more)


def test_both_steps_make_the_engine_that_one_makes(tiny: Llama, tmp_path: Path) -> None:
    precision = Precision.INT8_SQ
    made = converted(tiny, tmp_path / "converted", precision)
    assert made == open_converted(tmp_path / "converted")
    assert {"tokenizer.json", "NOTICE.nimlite"} <= made.config.files.keys()
    lines: list[str] = []
    progress, target = LineProgress(lines.append), tiny.target(precision)
    job = build_job(tiny, precision, converted=made)
    built = build_engine(job, tmp_path / "two", progress, target)
    assert not [line for line in lines if "Convert" in line or "Calibrate" in line]
    at_once = build_engine(build_job(tiny, precision), tmp_path / "one", progress, target)
    assert built.config.key == at_once.config.key
    assert built.config.weights == at_once.config.weights == made.config.weights
    assert built.config.quality == at_once.config.quality
    assert built == open_engine(tmp_path / "two")


def test_a_checkpoint_is_converted_once_and_a_damaged_one_again(
    tiny: Llama, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    first = converted(tiny, home, Precision.BF16)
    weights = home / "rank0.safetensors"
    before = weights.stat().st_mtime_ns
    assert converted(tiny, home, Precision.BF16) == first
    assert weights.stat().st_mtime_ns == before
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ChecksumError, match=r"rank0.* is damaged: .*Convert the checkpoint again"):
        open_converted(home)
    assert converted(tiny, home, Precision.BF16) == first
    assert "It is converted now." in caplog.text
    other = converted(tiny, home, Precision.INT8)
    assert open_converted(home).config.profile.precision is Precision.INT8 != first.config.profile
    assert other.config.weights != first.config.weights


def test_what_is_no_converted_checkpoint(tiny: Llama, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="files that are no converted checkpoint, and they are le"):
        converted(tiny, tmp_path, Precision.BF16)
    with pytest.raises(ModelError, match=r"is not a converted checkpoint: it has no converted\.js"):
        open_converted(tmp_path)
    home = tmp_path / "home"
    converted(tiny, home, Precision.BF16)
    with pytest.raises(ModelError, match=r"it is a converted checkpoint. `nimlite build .* --out"):
        open_engine(home)
    config = json.loads((home / "converted.json").read_text())
    (home / "converted.json").write_text(json.dumps(config | {"format": 1}))
    with pytest.raises(ModelError, match=r"has the engine format 1; .* with `nimlite convert`"):
        open_converted(home)
    (home / "converted.json").write_text("{")
    with pytest.raises(ChecksumError, match=r"converted\.json is damaged: it can't be read"):
        open_converted(home)


def test_the_users_text_is_measured_and_shapes_the_key(
    tiny: Llama, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "To be, or not to be: that is the question. " * 40
    mine = CalibrationFile(text=text, named="--calibration=t.txt")
    keys = {
        build_job(tiny, Precision.INT8_SQ, calibration=calibration).key
        for calibration in (None, mine, dataclasses.replace(mine, text=text + "?"))
    }
    assert len(keys) == 3
    plain = converted(tiny, tmp_path / "plain", Precision.INT8_SQ)
    own = converted(tiny, tmp_path / "own", Precision.INT8_SQ, text)
    assert own.config.calibration == mine.digest
    assert own.config.weights != plain.config.weights
    built = build_job(tiny, Precision.INT8_SQ, converted=own)
    assert built.key == build_job(tiny, Precision.INT8_SQ, calibration=mine).key
    same = converted(tiny, tmp_path / "default", Precision.INT8_SQ, default_text())
    assert same.config.weights == plain.config.weights
    with pytest.raises(SettingError, match=r"t\.txt has 5 tokens of this model, and 1024 are need"):
        converted(tiny, tmp_path / "short", Precision.INT8_SQ, "To be")
    converted(tiny, tmp_path / "floats", Precision.BF16, text)
    assert "--calibration=t.txt has no effect: bf16 measures no activations." in caplog.text
    assert build_job(tiny, Precision.BF16, calibration=mine).key == (
        build_job(tiny, Precision.BF16).key
    )


def test_a_neighbours_folder_of_that_name_is_left_alone(tiny: Llama, tmp_path: Path) -> None:
    """The parent of an --out directory is the user's own."""
    (tmp_path / "house.building").mkdir()
    (tmp_path / "home.building").mkdir()  # of one that was killed
    converted(tiny, tmp_path / "home", Precision.BF16)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"house.building", "home", "home.lock"}

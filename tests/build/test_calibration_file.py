from pathlib import Path

import pytest

from nimlite.build.calibration_file import read_calibration
from nimlite.errors import SettingError


def test_a_text_and_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\ufeffGrüße", encoding="utf-8")
    read = read_calibration(file, "--calibration=mine.txt")
    assert read.text == "Grüße"
    file.write_text("Grüße", encoding="utf-8")
    assert read_calibration(file, "NIM_CALIBRATION=x").digest == read.digest


def test_of_a_long_text_the_beginning_counts(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("a" + "ü" * (9 << 20), encoding="utf-8")  # the cut falls within an ü
    assert len(read_calibration(file, "").text) == 8 << 20


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "--calibration=t.txt can't be read: No such file or directory. Give a text file"),
        (b"", "--calibration=t.txt is empty: give a text, such as what the model will be asked"),
        (b" \n", "is empty"),
        (b"Gr\xfc\xdfe", r"is not UTF-8 text: byte 2 is 0xfc\. Give a plain text file, or convert"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "t.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError, match=sentence):
        read_calibration(file, "--calibration=t.txt")
    with pytest.raises(SettingError, match="can't be read: Is a directory"):
        read_calibration(tmp_path, "--calibration=t.txt")

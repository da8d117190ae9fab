"""The user's own text for calibration."""

import codecs
import hashlib
from dataclasses import dataclass
from pathlib import Path

from nimlite.errors import SettingError

_MAX_BYTES = 16 << 20
"""More than any calibration takes; of a longer file the beginning counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFile:
    """A text that activations are measured on."""

    text: str
    named: str
    """The setting as the user gave it."""

    @property
    def digest(self) -> str:
        """sha256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_calibration(path: Path, named: str) -> CalibrationFile:
    """Raises SettingError for a file that can't be read, is no UTF-8, or has no text."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
        whole = len(content) < _MAX_BYTES
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(content, final=whole)
    except UnicodeDecodeError as error:
        raise SettingError(
            f"{named} is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}."
            " Give a plain text file, or convert it (`iconv -f LATIN1 -t UTF-8`)."
        ) from error
    except OSError as error:
        raise SettingError(
            f"{named} can't be read: {error.strerror}. Give a text file, or leave it out for the"
            " text that comes with nimlite."
        ) from error
    if not text.strip():
        raise SettingError(f"{named} is empty: give a text, such as what the model will be asked.")
    return CalibrationFile(text=text, named=named)

"""What lies in an artifact's directory: written last, so that its presence means the download was
whole."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nimlite.store.digest import FileDigest

RECEIPT_FILE = "artifact.json"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an artifact came from, and its files."""

    source: str
    files: Mapping[str, FileDigest]

    def write(self, directory: Path) -> None:
        (directory / RECEIPT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "Receipt | None":
        """None where there is none that can be read: the artifact must be fetched (again)."""
        try:
            data = json.loads((directory / RECEIPT_FILE).read_text())
            files = {name: FileDigest(**digest) for name, digest in data["files"].items()}
            return cls(data["source"], files)
        except (OSError, ValueError, KeyError, TypeError):
            return None

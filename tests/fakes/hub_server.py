"""The two endpoints of the Hugging Face Hub that a download needs, for one repository."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

COMMIT = "c" * 40
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": b"tensors" * 1000,
    "pytorch_model.bin": b"pickle",
    "onnx/model.json": b"{}",
}


class Hub(BaseHTTPRequestHandler):
    authorizations: ClassVar[list[str | None]] = []
    """What each request was authorized by."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.authorizations.append(self.headers.get("Authorization"))
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/org/tiny/revision/") or path == "api/models/org/tiny":
            siblings = [_sibling(name) for name in FILES]
            self._send(json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"org/tiny/resolve/{COMMIT}/"):
            self._send(FILES[path.removeprefix(f"org/tiny/resolve/{COMMIT}/")])
        elif path.startswith("api/models/org/gated"):
            self._send(b"{}", status=403, error="GatedRepo")
        else:
            self._send(b"{}", status=404, error="RepoNotFound")

    def _send(self, body: bytes, status: int = 200, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _sibling(name: str) -> dict[str, object]:
    body = FILES[name]
    sibling: dict[str, object] = {"rfilename": name, "size": len(body), "blobId": "b" * 40}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(body).hexdigest()
        sibling["lfs"] = {"sha256": digest, "size": len(body), "pointerSize": 1}
    return sibling


def hub_server() -> ThreadingHTTPServer:
    return ThreadingHTTPServer(("127.0.0.1", 0), Hub)

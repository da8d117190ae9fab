"""A web server for downloads: ranges, validators, and connections that break off on demand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `content` at every path. `requests` are the Range headers that came ("" for none)."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = '"one"'
        self.statuses: list[int] = []
        """Answered first, one a request, instead of the content."""
        self.break_after: list[int] = []
        """How many bytes the next answers send before the connection is cut."""
        self.has_ranges = True
        """Whether it says so."""
        self.length: int | None = None
        """What it says that it has; None: the truth."""
        self.requests: list[str] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        self.requests.append(wanted)
        if self.statuses:
            handler.send_response(self.statuses.pop(0))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        resumes = wanted and handler.headers.get("If-Range") == self.etag
        first, _, last = wanted.removeprefix("bytes=").partition("-") if resumes else ("", "", "")
        body = self.content[int(first or 0) : int(last) + 1 if last else None]
        handler.send_response(206 if resumes else 200)
        handler.send_header("ETag", self.etag)
        if self.has_ranges:
            handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Length", str(self.length or len(body)))
        handler.end_headers()
        with suppress(ConnectionError):  # it has read what it wants
            handler.wfile.write(body[: self.break_after.pop(0)] if self.break_after else body)


@contextmanager
def serve(content: bytes) -> Iterator[FileServer]:
    served = FileServer(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

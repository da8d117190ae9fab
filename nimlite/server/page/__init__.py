"""GET /: the status page, and the two files that it asks for. It reads the API, and asks
for a key where that wants one."""

from importlib.resources import files

from fastapi import FastAPI, Response

_FILES = {
    "/": ("index.html", "text/html"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/style.css": ("style.css", "text/css"),
}
# Nothing from elsewhere, nothing inline (but the widths that page.js sets), no frame around it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI) -> None:
    """Read the files now: a request only hands them out."""
    for path, (name, media_type) in _FILES.items():
        _add_file(app, path, files(__package__).joinpath(name).read_bytes(), media_type)


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    headers = {
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",
    }

    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type=media_type, headers=headers)

"""GET /v1/health/live, /v1/health/ready and /v1/startup."""

import http
from typing import Any

from fastapi import Response

from nimlite.errors import NimliteError, NotReadyError
from nimlite.server.errors import error_object, json_response
from nimlite.server.state import ServerState


def live(state: ServerState) -> Response:
    """503 only where a restart is the cure: the engine has stopped for good, or the start has
    failed."""
    try:
        if state.is_loaded or state.startup.failure is not None:
            _ = state.model
    except NimliteError as error:
        comes_back = state.is_loaded and isinstance(error, NotReadyError)
        if not comes_back:
            return json_response(error_object(error), status=error.status)
    return _healthy("The server is alive.")


def ready(state: ServerState) -> Response:
    """503, with the phase of the start and its percent, until requests are answered."""
    try:
        state.require_ready()
    except NotReadyError as error:
        phase = state.startup.current
        progress = {
            "phase": phase.title if phase else None,
            "percent": phase.percent if phase else None,
        }
        return json_response(error_object(error) | progress, status=error.status)
    return _healthy("The server is ready.")


def startup(state: ServerState) -> dict[str, Any]:
    """All phases of the start so far."""
    return {
        "object": "startup",
        "ready": state.is_ready,
        "failure": state.startup.failure,
        "phases": [phase.as_json() for phase in list(state.startup.phases)],
    }


def _healthy(message: str) -> Response:
    return json_response(
        {"object": "health.response", "message": message}, status=http.HTTPStatus.OK
    )

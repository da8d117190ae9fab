"""GET /v1/metadata, /v1/manifest, /v1/version, /v1/license and /v1/status."""

from typing import Any

from nimlite.server.state import ServerState
from nimlite.version import __version__

_API_VERSION = "1.0"
_OWN_LICENSE = {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}


def metadata(state: ServerState) -> dict[str, Any]:
    """Raises NotReadyError while there is no model."""
    model = state.model
    return {
        "version": __version__,
        "licenseInfo": {"name": model.license},
        "modelInfo": [
            {"shortName": name, "modelUrl": model.source}
            for name in state.config.served_model_names
        ],
        "profile": model.profile,
    }


def manifest(state: ServerState) -> dict[str, Any]:
    """Raises NotReadyError while there is no model."""
    return dict(state.model.manifest)


def version() -> dict[str, str]:
    return {"release": __version__, "api": _API_VERSION}


def license_info(state: ServerState) -> dict[str, Any]:
    """Of the server and, once it is loaded, of the model."""
    model_license = state.model.license if state.is_loaded else None
    return {"server": _OWN_LICENSE, "model": {"name": model_license}}


def status(state: ServerState) -> dict[str, Any]:
    """What the status page shows beside start and metrics; answered during the start, too."""
    return {
        "object": "status",
        "model": state.config.served_model_names[0],
        "version": __version__,
        "draining": state.draining,
        **state.plan,
    }

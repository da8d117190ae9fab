"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from nimlite.server.state import ServedModel, ServerState


def list_models(state: ServerState) -> dict[str, Any]:
    """Raises NotReadyError while there is no model."""
    model = state.model
    cards = [_card(name, model) for name in state.config.served_model_names]
    return {"object": "list", "data": cards}


def show_model(state: ServerState, name: str) -> dict[str, Any]:
    """Raises ModelNotFoundError, or NotReadyError while there is no model."""
    state.require_name(name)
    return _card(name, state.model)


def _card(name: str, model: ServedModel) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": model.loaded_at,
        "owned_by": "nimlite",
        "root": model.source,
        "max_model_len": model.max_model_len,
    }

"""Anything as JSON, fast."""

import json

import orjson


def json_bytes(content: object) -> bytes:
    """In UTF-8. What a model or a client wrote may hold integers of any length and halves of
    surrogate pairs, which orjson refuses."""
    try:
        return orjson.dumps(content)
    except TypeError:
        return json.dumps(content).encode()

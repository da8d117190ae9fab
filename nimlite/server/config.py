"""What an operator may set about the HTTP side."""

import ssl
from dataclasses import dataclass, field

from nimlite.server.api_keys import ApiKeys
from nimlite.server.cors import Cors

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Fixed before the port is bound; what depends on the loaded model is in `ServedModel`."""

    served_model_names: tuple[str, ...]
    """Names a request may ask for; the first is the one that answers and metrics carry."""
    host: str = "0.0.0.0"
    port: int = 8000
    keys: ApiKeys = field(default_factory=ApiKeys)
    """Of which a request must bring one, if there are any."""
    tls: ssl.SSLContext | None = None
    """None: plain HTTP."""
    cors: Cors | None = None
    """None: no page of another origin may ask."""
    max_body_bytes: int = 32 * MIB
    """Larger bodies are refused with 413."""
    max_waiting: int = 1024
    """Requests queued in the engine beyond which new ones are refused with 429."""
    retry_after_s: int = 1
    """What 429 and 503 tell the client to wait, in seconds."""
    keep_alive_s: int = 75
    """Idle seconds before a connection is closed: longer than the 60 s of common client pools and
    proxies, so that they, not we, close first."""
    drain_s: float = 30.0
    """Seconds that running requests may take to finish after SIGTERM."""

    max_stored_responses: int = 1024
    """Of /v1/responses, kept in memory; the longest unused go first."""
    max_stored_bytes: int = 64 * MIB
    """Of them all."""

    def __post_init__(self) -> None:
        assert self.served_model_names, "a server serves at least one name"

"""What the tests of the server serve: a scripted engine behind a tiny tokenizer."""

from fakes.scripted_engine import ScriptedEngine

from nimlite.server.config import ServerConfig
from nimlite.server.state import ServedModel
from nimlite.server.tokenizer import Tokenizer

REPLY = "Hello from the tiny model, Grüße 😀."
EOS_ID = 1
MAX_MODEL_LEN = 256
VOCAB_SIZE = 320
MAX_BODY_BYTES = 1024 * 1024


def encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tokenizer._encode([text], add_special_tokens=False)[0]


def make_model(engine: ScriptedEngine, tokenizer: Tokenizer) -> ServedModel:
    return ServedModel(
        engine=engine,
        tokenizer=tokenizer,
        max_model_len=MAX_MODEL_LEN,
        vocab_size=VOCAB_SIZE,
        max_num_seqs=8,
        source="hf://org/tiny",
        profile="cpu-fp32",
        license="Apache-2.0",
        manifest={"schema_version": "2.0", "profiles": []},
    )


def make_config(**changes: object) -> ServerConfig:
    defaults = {
        "served_model_names": ("tiny", "org/tiny"),
        "host": "127.0.0.1",
        "port": 0,
        "max_body_bytes": MAX_BODY_BYTES,
        "max_waiting": 10,
    }
    return ServerConfig(**(defaults | changes))

"""A real engine behind a real server, in a thread."""

import socket
from pathlib import Path

from fakes.live_server import LiveServer

from nimlite.engine.client import EngineClient, EngineHost
from nimlite.engine.engine import Engine
from nimlite.engine.loop import EngineLoop
from nimlite.models.embedding import EmbeddingSpec
from nimlite.server.config import ServerConfig
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.tokenizer import Tokenizer


class HostServer(LiveServer):
    """Serves the engine of `host` as the model "tiny", until the block is left."""

    client: EngineClient

    def __init__(
        self,
        host: EngineHost,
        tokenizer_directory: Path,
        vocab_size: int,
        embedding: EmbeddingSpec | None = None,
    ) -> None:
        """`embedding`: of a model for embeddings and nothing else."""
        config = ServerConfig(served_model_names=("tiny",), host="127.0.0.1", port=0)
        super().__init__(ServerState(config))
        self._host = host
        self._vocab_size = vocab_size
        self._embedding = embedding
        self._tokenizer = Tokenizer.load(tokenizer_directory)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # The client belongs to the event loop that runs by now.
        self.client = EngineClient(self._host)
        self.state.set_ready(
            ServedModel(
                engine=self.client,
                tokenizer=self._tokenizer,
                max_model_len=self._host.limits.max_model_len,
                shares_context=not self._host.limits.num_decoder_prompt,
                vocab_size=self._vocab_size,
                max_num_seqs=64,
                embedding=self._embedding or EmbeddingSpec(),
                generates=self._embedding is None,
            )
        )
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.client.close()


class EngineServer(HostServer):
    """Of an engine in this process."""

    def __init__(
        self, engine: Engine, tokenizer_directory: Path, embedding: EmbeddingSpec | None = None
    ) -> None:
        vocab_size = engine.spec.vocab_size
        super().__init__(EngineLoop(engine), tokenizer_directory, vocab_size, embedding)

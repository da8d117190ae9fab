"""A real engine behind a real server, in a thread."""

import socket
from pathlib import Path

from fakes.live_server import LiveServer

from nimlite.engine.client import EngineClient
from nimlite.engine.engine import Engine
from nimlite.server.config import ServerConfig
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.tokenizer import Tokenizer


class EngineServer(LiveServer):
    """Serves `engine` as the model "tiny", until the block is left."""

    client: EngineClient

    def __init__(self, engine: Engine, tokenizer_directory: Path) -> None:
        config = ServerConfig(served_model_names=("tiny",), host="127.0.0.1", port=0)
        super().__init__(ServerState(config))
        self._engine = engine
        self._tokenizer = Tokenizer.load(tokenizer_directory)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # The client belongs to the event loop that runs by now.
        self.client = EngineClient(self._engine)
        self.state.set_ready(
            ServedModel(
                engine=self.client,
                tokenizer=self._tokenizer,
                max_model_len=self._engine.profile.max_model_len,
                vocab_size=self._engine.spec.vocab_size,
                max_num_seqs=self._engine.profile.max_batch_size,
            )
        )
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.client.close()

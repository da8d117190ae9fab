"""A server over a paced engine in a process: python -m fakes.serve_paced PORT TOKENIZER."""

import asyncio
import functools
import sys
from pathlib import Path

from fakes.paced_engine import paced

from nimlite.engine.client import EngineClient
from nimlite.engine.process import EngineProcess
from nimlite.observe.bars import LineProgress
from nimlite.server.config import ServerConfig
from nimlite.server.serve import serve
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.tokenizer import Tokenizer


async def main(port: int, directory: Path) -> None:
    config = ServerConfig(served_model_names=("tiny",), host="127.0.0.1", port=port)
    clients: list[EngineClient] = []

    async def load() -> ServedModel:
        recipe = functools.partial(paced, 0.01, (65,), 0.0)
        process = EngineProcess.launch(recipe, LineProgress(lambda line: None))
        clients.append(EngineClient(process))
        sys.stdout.write(f"child {process.pid}\n")
        sys.stdout.flush()
        return ServedModel(
            engine=clients[0],
            tokenizer=Tokenizer.load(directory),
            max_model_len=512,
            vocab_size=272,
            max_num_seqs=64,
        )

    try:
        await serve(ServerState(config), load)
    finally:
        for client in clients:
            client.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))

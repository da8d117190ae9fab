"""A response that is computed while its client is away."""

import asyncio
import logging
from collections.abc import Callable

from nimlite.errors import NimliteError, NotReadyError
from nimlite.server.generation import Generation
from nimlite.server.responses.encoder import ResponseEncoder

_log = logging.getLogger(__name__)


class BackgroundResponse:
    """Runs until it is done, cancelled, or the server ends."""

    def __init__(
        self,
        generation: Generation,
        encoder: ResponseEncoder,
        on_end: Callable[["BackgroundResponse"], None],
    ) -> None:
        self._generation = generation
        self._encoder = encoder
        self._on_end = on_end
        self._interrupted = False
        self._task = asyncio.create_task(self._run())

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def interrupt(self) -> None:
        self._interrupted = True
        self._task.cancel()

    async def _run(self) -> None:
        try:
            pieces = await self._generation.joined_pieces()
            self._encoder.whole(pieces, self._generation.usage())
        except asyncio.CancelledError:
            self._end_early()
        except NimliteError as error:
            self._encoder.failed(error)
        except Exception:  # noqa: BLE001 - the edge: nobody else would hear of it
            _log.exception("A response in the background ended by an internal error")
            self._encoder.failed(None)
        finally:
            self._on_end(self)

    def _end_early(self) -> None:
        if self._interrupted:
            text = "The server shut down before the answer was complete."
            self._encoder.failed(NotReadyError(text))
        else:
            self._encoder.cancelled()

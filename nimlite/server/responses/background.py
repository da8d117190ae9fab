"""A response that is computed while its client is away."""

import asyncio
import logging
from collections.abc import Callable

from nimlite.errors import NimliteError, RequestCancelledError
from nimlite.server.admission import Ticket
from nimlite.server.caller import Caller
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
        *,
        answer_id: str,
        caller: Caller,
        ticket: Ticket,
    ) -> None:
        self.answer_id = answer_id
        self.caller = caller
        self._ticket = ticket
        self._stop_clock = caller.on_deadline(self.interrupt)
        self._generation = generation
        self._encoder = encoder
        self._on_end = on_end
        self._interruption: NimliteError | None = None
        self._task = asyncio.create_task(self._run())

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def interrupt(self, error: NimliteError) -> None:
        self._interruption = error
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
            self._stop_clock()
            self._ticket.release(self._generation.usage().num_tokens)
            self._on_end(self)

    def _end_early(self) -> None:
        error = self._interruption
        if error is None or isinstance(error, RequestCancelledError):
            self._encoder.cancelled()
        else:
            self._encoder.failed(error)

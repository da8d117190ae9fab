"""Server-sent events: an answer as it grows."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from nimlite.server.choice import Piece
from nimlite.server.json_bytes import json_bytes


def encode(data: object) -> bytes:
    """JSON on what every client takes for one line. Many split a stream as str.splitlines does,
    which ends a line at U+0085, U+2028 and U+2029 too; JSON lets these three stand unescaped."""
    text = json_bytes(data)
    if b"\xe2\x80" in text:
        text = text.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    return text.replace(b"\xc2\x85", rb"\u0085")


def event(data: object) -> bytes:
    return b"data: " + encode(data) + b"\n\n"


async def read_ahead(
    batches: AsyncGenerator[list[Piece], None],
) -> AsyncGenerator[list[Piece], None]:
    """The same pieces, read at their own speed by a task of its own: what is looked for in the text
    is found at once, however slowly the text is taken."""
    mailbox: list[Piece] = []
    arrived = asyncio.Event()
    ended = False

    async def read() -> None:
        nonlocal ended
        try:
            async with contextlib.aclosing(batches):
                async for pieces in batches:
                    mailbox.extend(pieces)
                    arrived.set()
        finally:
            ended = True
            arrived.set()

    reader = asyncio.create_task(read())
    try:
        while not ended or mailbox:
            await arrived.wait()
            if not ended:
                arrived.clear()
            if mailbox:
                batch = Piece.join_by_choice(mailbox)
                mailbox.clear()
                yield batch
        await reader
    finally:
        reader.cancel()
        # Whoever closes us has no more interest in how the reader ended.
        reader.add_done_callback(lambda task: task.cancelled() or task.exception())

"""One choice as blocks, one after another: thoughts, text, calls of tools.

Responses and Anthropic's messages have them; chat completions have one field for each kind.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from nimlite.server.choice import Piece


class BlockKind(enum.Enum):
    """What a block holds."""

    THOUGHTS = enum.auto()
    TEXT = enum.auto()
    CALL = enum.auto()


@dataclass(slots=True, kw_only=True)
class Block:
    """A part of one kind; it grows while it is the last."""

    kind: BlockKind
    number: int
    """Among the blocks of the choice."""
    text: str = ""
    """Of a call: its arguments, the text of a JSON object."""
    call_id: str = ""
    name: str = ""
    """The tool's."""


@dataclass(frozen=True, slots=True)
class BlockStart:
    """A block begins."""

    block: Block


@dataclass(frozen=True, slots=True)
class BlockDelta:
    """A block has grown by `text`."""

    block: Block
    text: str


@dataclass(frozen=True, slots=True)
class BlockEnd:
    """A block is whole."""

    block: Block


Step = BlockStart | BlockDelta | BlockEnd


class BlockStream:
    """The blocks of one choice, as its pieces arrive."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._is_open = False

    def feed(self, piece: Piece) -> Iterable[Step]:
        """What the piece changes."""
        if piece.thoughts:
            yield from self._grow(BlockKind.THOUGHTS, piece.thoughts)
        if piece.text:
            yield from self._grow(BlockKind.TEXT, piece.text)
        for call in piece.calls:
            if call.id:
                yield from self._open(BlockKind.CALL, call_id=call.id, name=call.name)
            if call.arguments:
                yield from self._grow(BlockKind.CALL, call.arguments)

    def finish(self) -> Iterable[Step]:
        """No more pieces will come. An answer of nothing has one empty text."""
        if not self.blocks:
            yield from self._open(BlockKind.TEXT)
        yield from self._close()

    def _grow(self, kind: BlockKind, text: str) -> Iterable[Step]:
        if not self._is_open or self.blocks[-1].kind is not kind:
            yield from self._open(kind)
        block = self.blocks[-1]
        block.text += text
        yield BlockDelta(block, text)

    def _open(self, kind: BlockKind, *, call_id: str = "", name: str = "") -> Iterable[Step]:
        yield from self._close()
        block = Block(kind=kind, number=len(self.blocks), call_id=call_id, name=name)
        self.blocks.append(block)
        self._is_open = True
        yield BlockStart(block)

    def _close(self) -> Iterable[Step]:
        if self._is_open:
            self._is_open = False
            yield BlockEnd(self.blocks[-1])

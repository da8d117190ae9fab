"""The bytes of each token: what text is made of, and what OpenAI's logprobs report."""

import json
from collections.abc import Iterable

import tokenizers
from tokenizers.pre_tokenizers import ByteLevel


class TokenBytes:
    """Token id to the bytes that it adds to a text, looked up once a token.

    Byte-level BPE (Llama 3, Qwen, GPT-2, SmolLM) spells bytes as 256 printable characters, so that
    its tokens may be pieces of a UTF-8 character. SentencePiece models have a token `<0xE2>` for a
    byte. Other tokens are decoded behind another one, since a decoder may strip the space of the
    first.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        kinds = _decoder_kinds(tokenizer)
        self._byte_of = _byte_level_alphabet() if "ByteLevel" in kinds else {}
        self._has_byte_tokens = "ByteFallback" in kinds
        self._anchor = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        self._anchor_text = tokenizer.decode(self._anchor)
        self.special_ids = frozenset(
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        )

    def __getitem__(self, token_id: int) -> bytes:
        """Empty for ids that the tokenizer doesn't know (rows that pad an embedding)."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._look_up(token_id)
        return known

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool) -> str:
        """The text of a whole sequence."""
        skipped = self.special_ids if skip_special_tokens else frozenset()
        pieces = (self[token_id] for token_id in token_ids if token_id not in skipped)
        return b"".join(pieces).decode(errors="replace")

    def text(self, token_id: int) -> str:
        """The token alone; a piece of a character as OpenAI writes it: `bytes:\\xe2\\x82`."""
        raw = self[token_id]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _look_up(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_of:
            spelled = [self._byte_of.get(character) for character in token]
            # The decoder of byte-level BPE does the same with added tokens outside its alphabet.
            return token.encode() if None in spelled else bytes(spelled)  # type: ignore[arg-type]
        if self._has_byte_tokens and len(token) == len("<0xFF>") and token.startswith("<0x"):
            return bytes.fromhex(token[3:5])
        text = self._tokenizer.decode([*self._anchor, token_id], skip_special_tokens=False)
        return text[len(self._anchor_text) :].encode()


def _decoder_kinds(tokenizer: tokenizers.Tokenizer) -> frozenset[str]:
    if tokenizer.decoder is None:
        return frozenset()
    state = json.loads(tokenizer.decoder.__getstate__())
    return frozenset(part["type"] for part in state.get("decoders", [state]))


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 as itself, others from U+0100 on, in order."""
    alphabet = sorted(ByteLevel.alphabet())
    printable = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = (byte for byte in range(256) if byte not in printable.values())
    return printable | dict(zip(alphabet[len(printable) :], others, strict=True))

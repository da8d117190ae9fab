"""The tokenizer inside a GGUF, built for `tokenizers`.

By hand, because transformers' own reader takes plain GPT-2 splitting for every byte-level model.
The expressions are those
that the model families publish in their tokenizer.json, under the names that llama.cpp gives them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Punctuation, Sequence, Split

from nimlite.build.tokenizer_files import SpecialTokens, write_tokenizer
from nimlite.errors import ModelError

_CONTROL, _USER_DEFINED = 3, 4
"""Token types: never typed by a user, and matched whole."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), _gpt2()])


def _default() -> PreTokenizer:
    """What llama.cpp does with a GGUF that names nothing: Falcon's splitting."""
    three_digits = Split(Regex("[0-9][0-9][0-9]"), "isolated")
    digits = Digits(individual_digits=False)
    return Sequence([Punctuation("contiguous"), _gpt2(), digits, three_digits])


def _llama3() -> PreTokenizer:
    return _split_by(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}")


def _qwen2() -> PreTokenizer:
    return _split_by(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}")


def _split_by(expression: str) -> PreTokenizer:
    whole = ByteLevel(add_prefix_space=False, use_regex=False)
    return Sequence([Split(Regex(expression), "isolated"), whole])


_PRE_TOKENIZERS: Mapping[str, Callable[[], PreTokenizer]] = {
    "default": _default,
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama-bpe": _llama3,
    "qwen2": _qwen2,
}


def save_gguf_tokenizer(field: Callable[..., Any], directory: Path, source: Path) -> None:
    """Write the tokenizer's files. `field(key, default)` reads the metadata of the file `source`.

    Raises ModelError for a kind of tokenizer or of splitting that is not known.
    """
    kind = field("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelError(
            f"The tokenizer of {source} is of the kind {kind!r}; supported is gpt2 (byte-level"
            " BPE). Give the Hugging Face checkpoint, which holds a tokenizer.json."
        )
    pre = field("tokenizer.ggml.pre", "default")
    if pre not in _PRE_TOKENIZERS:
        raise ModelError(
            f"{source} splits text as {pre!r}, which is not known; known are"
            f" {', '.join(_PRE_TOKENIZERS)}. Splitting it otherwise would give the"
            " model wrong tokens."
        )
    tokens: list[str] = field("tokenizer.ggml.tokens")
    bos_id = field("tokenizer.ggml.bos_token_id", None)
    tokenizer = _byte_level_bpe(tokens, field, pre)
    if bos_id is not None and field("tokenizer.ggml.add_bos_token", pre == "llama-bpe"):
        bos = tokens[bos_id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
        )
    ends = (field(f"tokenizer.ggml.{name}_token_id", None) for name in ("eos", "eot", "eom"))
    special = SpecialTokens(
        bos_id=bos_id,
        eos_ids=tuple(dict.fromkeys(i for i in ends if i is not None)),
        pad_id=field("tokenizer.ggml.padding_token_id", None),
    )
    context = field("llama.context_length")
    template = field("tokenizer.chat_template", None)
    write_tokenizer(directory, tokenizer, special, context, template)


def _byte_level_bpe(tokens: list[str], field: Callable[..., Any], pre: str) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    # Llama 3 takes a word that is a token as it is, even where no merges lead to it.
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    types = field("tokenizer.ggml.token_type")
    for kind, is_special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [t for t, found in zip(tokens, types, strict=True) if found == kind]
        tokenizer.add_tokens(
            [AddedToken(token, special=is_special, normalized=False) for token in added]
        )
    return tokenizer

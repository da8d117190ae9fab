"""Tokenizer files for models that come without them, as transformers' AutoTokenizer reads them."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END = "<|end|>"

_PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Ids with a meaning. The first of `eos_ids` is the tokenizer's end-of-sequence token."""

    eos_ids: tuple[int, ...]
    bos_id: int | None = None
    pad_id: int | None = None


def write_tokenizer(
    directory: Path,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    max_length: int,
    chat_template: str | None = _PLAIN_TEMPLATE,
) -> None:
    """tokenizer.json, tokenizer_config.json, generation_config.json and, where given,
    chat_template.jinja."""
    tokenizer.save(str(directory / "tokenizer.json"))
    tokens = {
        "bos_token": special.bos_id,
        "eos_token": special.eos_ids[0] if special.eos_ids else None,
        "pad_token": special.pad_id,
    }
    named = {key: tokenizer.id_to_token(i) for key, i in tokens.items() if i is not None}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **named,
    }
    generation = {
        "bos_token_id": special.bos_id,
        "eos_token_id": list(special.eos_ids),
        "pad_token_id": special.pad_id,
    }
    _write_json(directory / "tokenizer_config.json", config)
    _write_json(directory / "generation_config.json", generation)
    if chat_template is not None:
        (directory / "chat_template.jinja").write_text(chat_template)


def byte_tokenizer() -> Tokenizer:
    """Ids 0 to 255 are the bytes of UTF-8, 256 is END."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_of)
    vocabulary = {character: byte for byte, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return tokenizer


def _byte_of(character: str) -> int:
    """The byte that GPT-2's alphabet writes as `character`: printable ones as they are, the others
    from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if ord(character) < 256:
        return ord(character)
    return [b for b in range(256) if b not in printable][ord(character) - 256]


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")

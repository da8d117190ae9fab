"""A byte-level BPE tokenizer of a few hundred tokens, with a chat template."""

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<|begin|>", "<|end|>"
CORPUS = [
    "Hello from the tiny model. The quick brown fox jumps over the lazy dog.",
    "user assistant system tool what is the answer? four 4 2+2",
    "Grüße aus Köln, 日本語 テスト, 😀😃 👩‍👩‍👧 ok",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('Tools are unknown to this model.') }}"
    "{% endif %}"
    "{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_level_tokenizer(*, with_bos: bool = True) -> tokenizers.Tokenizer:
    """Ids 0 and 1 are BOS and EOS; `with_bos` puts BOS before each encoded text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if with_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, 0)]
        )
    return tokenizer


def save_tokenizer(directory: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """The files of a checkpoint's tokenizer; returns `directory`."""
    pretrained = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(), bos_token=BOS, eos_token=EOS
    )
    if chat_template is not None:
        pretrained.chat_template = chat_template
    pretrained.save_pretrained(directory)
    return directory

"""Tiny random encoder-decoders, as the engine and as transformers run them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fakes.family import TinyModel
from fakes.llama import save_random
from transformers import AutoModelForSeq2SeqLM, BartConfig, PreTrainedConfig, T5Config

from nimlite.build.checkpoint import open_checkpoint
from nimlite.models.spec import NUM_SOURCE_TOKENS

T5 = {
    "vocab_size": 272,
    "d_model": 64,
    "d_kv": 32,
    "d_ff": 96,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    # shorter than the texts
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 40,
    "eos_token_id": 256,
    "pad_token_id": 257,
    "n_positions": 256,
}
BART = {
    "vocab_size": 272,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 256,
    "bos_token_id": 258,
    "eos_token_id": 256,
    "decoder_start_token_id": 256,
    "forced_eos_token_id": None,
    "pad_token_id": 257,
}
CASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "t5": lambda: T5Config(**T5),
    "t5 1.1": lambda: T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "bart": lambda: BartConfig(**BART),
    "bart, scaled": lambda: BartConfig(**BART, scale_embedding=True, forced_bos_token_id=258),
}


@dataclass(frozen=True, eq=False)
class TinyEncoderDecoder(TinyModel):
    """One whose encoder has read the beginning of a text, unless another source is given."""

    @torch.inference_mode()
    def reference_logits(
        self, token_ids: Sequence[int], source: Sequence[int] | None = None
    ) -> torch.Tensor:
        source = token_ids[:NUM_SOURCE_TOKENS] if source is None else source
        given, text = torch.tensor([list(source)]), torch.tensor([list(token_ids)])
        return self.reference(input_ids=given, decoder_input_ids=text).logits[0]


def encoder_decoder(name: str, directory: Path) -> TinyEncoderDecoder:
    """Random weights of one of `CASES`, saved in `directory`."""
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(CASES[name]()).float().eval()
    # the logits of T5 1.0 are scaled
    home = save_random(model, directory, embedding=8.0 if name == "t5" else 2.0)
    return TinyEncoderDecoder(open_checkpoint(home), directory / "weights", model)

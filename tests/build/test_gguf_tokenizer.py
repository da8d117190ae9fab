"""Expected ids were read off the vocabulary of the file by hand, piece by piece; llama.cpp's
tokenizer gives the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.gguf_file import write_gguf
from fakes.llama import random_llama
from transformers import AutoTokenizer, LlamaForCausalLM

from nimlite.build.checkpoint import open_checkpoint
from nimlite.errors import ModelError

SMOLLM2 = {
    "Hello world! 2+2=4": "Hello Ġworld ! Ġ 2 + 2 = 4",
    " 1 2  3": "Ġ 1 Ġ 2 ĠĠ 3",
    "x = [1,  2]\n\tfoo(10)": "x Ġ= Ġ[ 1 , ĠĠ 2 ] Ċ ĉ foo ( 1 0 )",
    "In 1984, I'm 36.": "In Ġ 1 9 8 4 , ĠI 'm Ġ 3 6 .",
    "naïve café ½": "na Ã¯ve ĠcafÃ© Ġ Â½",
    "<|im_start|>user\nhi<|im_end|>": "<|im_start|> user Ċ hi <|im_end|>",
}
SMOLLM2_IDS = {" 1 2  3": [216, 33, 216, 34, 256, 35], "hi<|im_end|>": [6004, 2]}


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("smollm2")
    open_checkpoint(smollm2_gguf).save_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize(("text", "pieces"), SMOLLM2.items())
def test_smollm2_splits_digits_one_by_one(smollm2: Any, text: str, pieces: str) -> None:
    ids = smollm2(text)["input_ids"]
    assert smollm2.convert_ids_to_tokens(ids) == pieces.split(" ")
    assert smollm2.decode(ids) == text


@pytest.mark.parametrize(("text", "ids"), SMOLLM2_IDS.items())
def test_smollm2_ids(smollm2: Any, text: str, ids: list[int]) -> None:
    assert smollm2(text)["input_ids"] == ids


def test_smollm2_knows_its_special_tokens_and_template(smollm2: Any) -> None:
    assert (smollm2.bos_token_id, smollm2.eos_token_id, smollm2.pad_token_id) == (1, 2, 2)
    assert smollm2.decode([1, 6004, 2], skip_special_tokens=True) == "hi"
    prompt = smollm2.apply_chat_template(
        [{"role": "user", "content": "What is 2+2?"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    )


Write = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LlamaForCausalLM:
    return random_llama(tmp_path_factory.mktemp("llama")).reference


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["1234", "Ġab", "!", "Ċ", "Ċ"]),
        ("smollm", ["1", "2", "3", "4", "Ġab", "!", "Ċ", "Ċ"]),
        ("qwen2", ["1", "2", "3", "4", "Ġab", "!Ċ", "Ċ"]),
        ("llama-bpe", ["123", "4", "Ġab", "!Ċ", "Ċ"]),
        ("default", ["123", "4", "Ġab", "!", "Ċ", "Ċ"]),
    ],
)
def test_every_way_of_splitting(
    tmp_path: Path, model: LlamaForCausalLM, pre: str, pieces: list[str]
) -> None:
    merges = ["1 2", "12 3", "123 4", "a b", "Ġ ab", "! Ċ"]
    path = write_gguf(tmp_path / "tiny.gguf", model, merges=merges, pre=pre)
    open_checkpoint(path).save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("1234 ab!\n\n") == pieces


def test_beginnings_and_ends(tmp_path: Path, model: LlamaForCausalLM) -> None:
    path = write_gguf(
        tmp_path / "tiny.gguf", model, bos_token_id=0, add_bos_token=True, eot_token_id=5
    )
    open_checkpoint(path).save_tokenizer(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"][0] == 0
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [0, 5]


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        (
            {"pre": "tekken"},
            "splits text as 'tekken', which is not known; known are default, gpt-2",
        ),
        ({"model": "llama"}, r"of the kind 'llama'; supported is gpt2 \(byte-level BPE\)"),
    ],
)
def test_what_is_not_known(
    tmp_path: Path, model: LlamaForCausalLM, metadata: dict[str, str], sentence: str
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model, **metadata)
    with pytest.raises(ModelError, match=sentence):
        open_checkpoint(path).save_tokenizer(tmp_path)

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from fakes.llama import random_llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from nimlite.build.checkpoint import open_checkpoint
from nimlite.build.random import RandomCheckpoint
from nimlite.errors import ModelError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    random_llama(tmp_path)
    return tmp_path / "checkpoint"


def test_shards_hold_what_one_file_holds(home: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(home)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    whole, sharded = open_checkpoint(home), open_checkpoint(tmp_path / "sharded")
    assert whole.names == sharded.names
    for name in whole.names:
        assert torch.equal(whole.tensor(name), sharded.tensor(name))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_any_float_is_read_as_fp32(home: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = LlamaForCausalLM.from_pretrained(home, dtype=dtype)
    model.save_pretrained(tmp_path / "half")
    checkpoint = open_checkpoint(tmp_path / "half")
    for name, expected in model.state_dict().items():
        if name in checkpoint.names:
            assert torch.equal(checkpoint.tensor(name), expected.float())


def test_the_digest_is_that_of_the_contents(home: Path, tmp_path: Path) -> None:
    before = open_checkpoint(home).digest
    home = home.rename(tmp_path / "elsewhere")
    assert open_checkpoint(home).digest == before
    with (home / "tokenizer_config.json").open("a") as file:
        file.write(" ")
    assert open_checkpoint(home).digest != before


def test_a_truncated_shard_is_named(home: Path) -> None:
    weights = home / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors can't be read .* truncated"):
        open_checkpoint(home).names  # noqa: B018


def test_a_missing_shard_is_named(home: Path, tmp_path: Path) -> None:
    LlamaForCausalLM.from_pretrained(home).save_pretrained(tmp_path / "s", max_shard_size="50KB")
    index = json.loads((tmp_path / "s" / "model.safetensors.index.json").read_text())
    gone = sorted(set(index["weight_map"].values()))[0]
    (tmp_path / "s" / gone).unlink()
    checkpoint = open_checkpoint(tmp_path / "s")
    name = next(n for n, file in index["weight_map"].items() if file == gone)
    with pytest.raises(ModelError, match=f"{gone} can't be read"):
        checkpoint.tensor(name)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file or directory"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"has no config.json \(it holds nothing\)\. Supported"):
        open_checkpoint(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"Give the file itself: .*m\.gguf"):
        open_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="is not a GGUF file"):
        open_checkpoint(tmp_path / "m.gguf")


def test_what_is_not_read(home: Path, tmp_path: Path) -> None:
    (home / "model.safetensors").rename(home / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"Weights in pickles .* `model\.save_pretrained"):
        open_checkpoint(home).names  # noqa: B018
    (home / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        open_checkpoint(home).save_tokenizer(tmp_path)
    config = json.loads((home / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq"}
    (home / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="weights quantized by 'hqq'"):
        open_checkpoint(home).config  # noqa: B018
    (home / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json can't be read"):
        open_checkpoint(home).config  # noqa: B018


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_header_is_told_or_harmless(home: Path, data: st.DataObject) -> None:
    weights = home / "model.safetensors"
    copy = home.parent / "damaged"
    shutil.copytree(home, copy, dirs_exist_ok=True)
    damaged = bytearray(weights.read_bytes())
    end = 8 + int.from_bytes(damaged[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, end - 1))] = data.draw(
            st.sampled_from(b'0159{}[]",:-eF\0')
        )
    (copy / "model.safetensors").write_bytes(damaged)
    checkpoint = open_checkpoint(copy)
    with contextlib.suppress(ModelError):
        for name in checkpoint.names:
            checkpoint.tensor(name)


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "1",
        '{"a": 1}',
        '{"a": {"dtype": "F32"}}',
        '{"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}',
    ],
)
def test_a_header_of_another_form_is_told(home: Path, header: str) -> None:
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(8)
    (home / "model.safetensors").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"model\.safetensors can't be read \(.*\)\. It is missing, t"
    ):
        open_checkpoint(home).names  # noqa: B018


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_of_another_form_is_told(home: Path, index: str) -> None:
    (home / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"index\.json can't be read \(it h.*download it again"):
        open_checkpoint(home).names  # noqa: B018


def test_random_weights_are_the_same_in_any_order(home: Path) -> None:
    config = open_checkpoint(home).config
    one, two = RandomCheckpoint(config, seed=1), RandomCheckpoint(config, seed=1)
    for name, other in zip(sorted(one.names), sorted(one.names, reverse=True), strict=True):
        two.tensor(other)
        assert torch.equal(one.tensor(name), two.tensor(name))
    assert one.digest == two.digest != RandomCheckpoint(config, seed=2).digest
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(one.tensor(name), RandomCheckpoint(config, seed=2).tensor(name))

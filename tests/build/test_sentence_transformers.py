"""What sentence-transformers' files say, as it writes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from nimlite.build.sentence_transformers import read_embedding, sentence_transformers_files
from nimlite.errors import ModelError
from nimlite.models.embedding import EmbeddingSpec, Pooling

TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
MEAN = {"word_embedding_dimension": 384, "pooling_mode_cls_token": False}
MEAN |= {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}


def write(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    return directory


def test_a_checkpoint_of_another_kind(tmp_path: Path) -> None:
    assert read_embedding(tmp_path) is None
    assert sentence_transformers_files(tmp_path) == ()


def test_all_that_it_says(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": ""}
    files = {
        "modules.json": [TRANSFORMER, POOLING, NORMALIZE],
        "1_Pooling/config.json": MEAN,
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": "query"},
    }
    found = read_embedding(write(tmp_path, files))
    assert found == EmbeddingSpec(
        pooling=Pooling.MEAN,
        normalize=True,
        max_tokens=256,
        prompts=prompts,
        default_prompt="query",
    )
    assert set(sentence_transformers_files(tmp_path)) == files.keys()


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, Pooling.LAST),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, Pooling.CLS),
        ({"pooling_mode": "mean"}, Pooling.MEAN),
    ],
)
def test_the_poolings_and_where_the_store_keeps_them(
    tmp_path: Path, config: dict[str, Any], pooling: Pooling
) -> None:
    files = {"modules.json": [TRANSFORMER, POOLING], "1_Pooling.config.json": config}
    assert read_embedding(write(tmp_path, files)) == EmbeddingSpec(pooling=pooling, normalize=False)
    assert set(sentence_transformers_files(tmp_path)) == files.keys()


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        ([TRANSFORMER, POOLING], None, "1_Pooling/config.json, which is missing"),
        (
            [TRANSFORMER, POOLING],
            {"pooling_mode_max_tokens": True},
            "the pooling max_tokens. Supported are mean, cls and lasttoken",
        ),
        ([TRANSFORMER, POOLING], MEAN | {"include_prompt": False}, "leaves the prompt out"),
        (
            [TRANSFORMER, POOLING, {"type": "sentence_transformers.models.Dense", "path": "2"}],
            MEAN,
            "of the modules Transformer, Pooling, Dense. Supported are",
        ),
        ([TRANSFORMER | {"path": "0_Transformer"}, POOLING], MEAN, "in the directory itself"),
        ([1, 2], MEAN, "no list of modules"),
        ({"a": 1}, MEAN, "holds no JSON array"),
    ],
)
def test_what_is_not_supported(
    tmp_path: Path, modules: Any, pooling: dict[str, Any] | None, message: str
) -> None:
    files = {"modules.json": modules}
    if pooling is not None:
        files["1_Pooling/config.json"] = pooling
    with pytest.raises(ModelError, match=message):
        read_embedding(write(tmp_path, files))

"""What sentence-transformers' files beside a checkpoint say of its embeddings.

modules.json                      which modules follow each other
1_Pooling/config.json             how hidden states are pooled; the store keeps it as
                                  1_Pooling.config.json
sentence_bert_config.json         the longest text
config_sentence_transformers.json prompts by purpose
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nimlite.build.huggingface_config import read_json, read_json_list
from nimlite.errors import ModelError
from nimlite.models.embedding import EmbeddingSpec, Pooling

_MODULES = "modules.json"
_LENGTH = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
_POOLINGS: Mapping[str, Pooling] = {
    "lasttoken": Pooling.LAST,
    "mean": Pooling.MEAN,
    "mean_tokens": Pooling.MEAN,
    "cls": Pooling.CLS,
    "cls_token": Pooling.CLS,
}
_MODE = "pooling_mode"


def read_embedding(directory: Path) -> EmbeddingSpec | None:
    """None where the checkpoint is none of sentence-transformers. Raises ModelError for modules
    that are not supported and for files that can't be read."""
    if not (directory / _MODULES).is_file():
        return None
    modules = dict(_modules(directory))
    others = modules.keys() - {"Transformer", "Pooling", "Normalize"}
    if others or "Pooling" not in modules or modules.get("Transformer"):
        raise ModelError(
            f"{directory / _MODULES} makes embeddings of the modules {', '.join(modules)}."
            " Supported are a Transformer in the directory itself, Pooling and, or not, Normalize."
        )
    pooling = _read_pooling(directory, modules["Pooling"])
    prompts = _read(directory / _PROMPTS)
    return EmbeddingSpec(
        pooling=pooling,
        normalize="Normalize" in modules,
        max_tokens=_read(directory / _LENGTH).get("max_seq_length"),
        prompts=dict(prompts.get("prompts") or {}),
        default_prompt=prompts.get("default_prompt_name"),
    )


def sentence_transformers_files(directory: Path) -> tuple[str, ...]:
    """Those that shape embeddings, as far as they are there."""
    if not (directory / _MODULES).is_file():
        return ()
    pooling = [_pooling_file(path) for kind, path in _modules(directory) if kind == "Pooling"]
    flat = [name.replace("/", ".") for name in pooling]
    names = (_MODULES, _LENGTH, _PROMPTS, *pooling, *flat)
    return tuple(name for name in names if (directory / name).is_file())


def _modules(directory: Path) -> Iterator[tuple[str, str]]:
    """The class and the folder of each."""
    file = directory / _MODULES
    try:
        for module in read_json_list(file):
            yield module["type"].rpartition(".")[2], module["path"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} can't be read: it is no list of modules ({error}).") from error


def _read_pooling(directory: Path, folder: str) -> Pooling:
    name = _pooling_file(folder)
    file = next((f for n in (name, name.replace("/", ".")) if (f := directory / n).is_file()), None)
    if file is None:
        raise ModelError(
            f"{directory / _MODULES} names {name}, which is missing: how to pool stands there. Copy"
            " or download the whole checkpoint."
        )
    config = read_json(file)
    modes = [key.removeprefix(f"{_MODE}_") for key, on in config.items() if on is True]
    modes = [mode for mode in modes if mode in _POOLINGS or f"{_MODE}_{mode}" in config]
    if isinstance(config.get(_MODE), str):
        modes = [config[_MODE]]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ModelError(
            f"{file} asks for the pooling {' and '.join(modes) or 'of nothing'}. Supported are"
            " mean, cls and lasttoken, one of them."
        )
    if config.get("include_prompt") is False:
        raise ModelError(
            f"{file} leaves the prompt out of the pooling (include_prompt), which is not supported."
        )
    return _POOLINGS[modes[0]]


def _pooling_file(folder: str) -> str:
    return f"{folder}/config.json"


def _read(file: Path) -> Mapping[str, Any]:
    return read_json(file) if file.is_file() else {}

"""The settings on a command line, and in NIM_PASSTHROUGH_ARGS, which holds one in a variable."""

import difflib
import shlex
from collections.abc import Iterator
from typing import Final

from nimlite.errors import SettingError
from nimlite.settings.fields import FIELDS, Settings
from nimlite.settings.given import Given, Origin

PASSTHROUGH: Final = "NIM_PASSTHROUGH_ARGS"
_ALSO = {
    "model_profile": ("--profile", "-p"),
    "precision": ("--dtype", "--qformat"),
    "tensor_parallel_size": ("--tp", "--tp-size"),
    "pipeline_parallel_size": ("--pp", "--pp-size"),
    "calibration": ("--calib-dataset",),
    "kv_precision": ("--kv-cache-dtype",),
    "input_length": ("--max-input-len",),
    "max_model_len": ("--max-seq-len",),
    "max_batch_size": ("--max-num-seqs",),
    "max_num_tokens": ("--max-num-batched-tokens",),
    "kvcache_percent": ("--gpu-memory-utilization",),
    "ssl_key_path": ("--ssl-keyfile",),
    "ssl_certs_path": ("--ssl-certfile",),
    "ssl_ca_certs_path": ("--ssl-ca-certs",),
    "specdec_enable": ("--speculative",),
    "config_file": ("--config-file",),
}
"""Other spellings, as NIM's commands, vLLM and TensorRT-LLM have them."""


def normal(option: str) -> str:
    """An option as it is spelled here: TensorRT-LLM's have underscores."""
    return option.replace("_", "-")


def flag(name: str) -> str:
    """The option of a setting, or the argument that it is."""
    special = {"model_path": "MODEL", "config_file": "--config"}
    return special.get(name, "--" + name.removeprefix("server_").replace("_", "-"))


def spellings(name: str) -> tuple[str, ...]:
    """All options of a setting, the main one first."""
    return flag(name), *_ALSO.get(name, ())


def is_switch(name: str) -> bool:
    """Whether the option takes no value, and has a --no- twin."""
    is_bool: bool = Settings.__annotations__[name].__origin__ is bool
    return is_bool


def read_passthrough(text: str) -> dict[str, Given]:
    """The settings in the text of NIM_PASSTHROUGH_ARGS; of one given twice the last counts.

    Raises SettingError for a flag that nimlite does not have.
    """
    try:
        words = iter(shlex.split(text))
    except ValueError as error:
        raise SettingError(f"{PASSTHROUGH} can't be read: {error}.") from error
    return {name: given for word in words for name, given in [_read(word, words)]}


def _read(word: str, rest: Iterator[str]) -> tuple[str, Given]:
    option, equals, value = word.partition("=")
    option = normal(option)
    options = {spelling: name for name in FIELDS for spelling in spellings(name)}
    negated = option.startswith("--no-")
    name = options.get(option.replace("--no-", "--", 1))
    if name is None or name == "model_path" or (negated and not is_switch(name)):
        nearest = difflib.get_close_matches(option, options, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else "."
        raise SettingError(f"{PASSTHROUGH} has {option}, which is no option of nimlite{hint}")
    if not equals:
        value = str(not negated) if is_switch(name) else next(rest, "")
    return name, Given(Origin.ENVIRONMENT, f"{PASSTHROUGH} {option}", value)

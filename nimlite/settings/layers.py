"""The layers laid over each other: command line, environment, config file; what is left is for the
profile and the defaults."""

from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from nimlite.errors import SettingError
from nimlite.redaction import public
from nimlite.settings.fields import FIELDS, Settings, said
from nimlite.settings.file import read_file
from nimlite.settings.flags import PASSTHROUGH, flag, read_passthrough
from nimlite.settings.given import Given, Origin, shown
from nimlite.settings.nim import variables

_TYPES = get_type_hints(Settings, include_extras=True)
_ADAPTERS = {name: TypeAdapter[Any](_TYPES[name]) for name in FIELDS}


def read_settings(
    environ: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> Settings:
    """Settings from the environment, from flags by field name (None: not given), and from the
    config file that either names.

    An empty variable or flag counts as unset. Raises SettingError for a value that can't be used,
    and for two that contradict each other.
    """
    from_flags = {
        name: Given(Origin.FLAG, flag(name), value)
        for name, value in (flags or {}).items()
        if value not in (None, "")
    }
    passed = read_passthrough(environ.get(PASSTHROUGH, ""))
    given = _from_environment(environ) | passed | from_flags
    if file := given.get("config_file"):
        given = read_file(_read("config_file", file), str(file)) | given
    values = {name: _read(name, value) for name, value in given.items()}
    settings = Settings(**values, given=given)
    _check_agreement(settings)
    return settings


def plain(settings: Settings, name: str) -> Any:
    """The value of a field as JSON has it, which a config file reads back; no secret of an
    address."""
    value = _ADAPTERS[name].dump_python(getattr(settings, name), mode="json")
    return public(value) if isinstance(value, str) else value


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    given = {}
    for name in FIELDS:
        found = [
            Given(Origin.ENVIRONMENT, variable, environ[variable].strip())
            for variable in variables(name)
            if environ.get(variable, "").strip()
        ]
        if found:
            _check_same(found, [_read(name, each) for each in found])
            given[name] = found[0]
    return given


def _read(name: str, given: Given) -> Any:
    try:
        return _ADAPTERS[name].validate_python(given.value)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)[0], said(name, given)) from None


def _check_same(given: list[Given], values: list[Any]) -> None:
    """Several spellings of one setting must say the same."""
    for other, value in zip(given, values, strict=True):
        if value != values[0]:
            _contradiction((given[0], other))


def _contradiction(given: Iterable[Given]) -> None:
    both = " and ".join(str(each) for each in given)
    raise SettingError(f"{both} contradict each other: set only one of them.")


def _check_agreement(settings: Settings) -> None:
    """Settings that are right alone, and can't be right together."""
    sequences, tokens = settings.max_batch_size, settings.max_num_tokens
    if sequences and tokens and sequences > tokens:
        raise SettingError(
            f"{settings.named('max_batch_size')} and {settings.named('max_num_tokens')} contradict "
            "each other: each sequence that runs takes at least one token of a step."
        )
    prompt, answer = settings.input_length or 0, settings.output_length or 0
    if settings.max_model_len and prompt + answer > settings.max_model_len:
        lengths = [n for n in ("input_length", "output_length") if getattr(settings, n)]
        expected = " with ".join(settings.named(name) for name in lengths)
        raise SettingError(
            f"{expected} and {settings.named('max_model_len')} contradict each other: a request of "
            f"{prompt + answer} tokens does not fit into that context."
        )


_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "1 or 0",
    "bool_type": "1 or 0",
    "string_type": "a text, in quotes if it looks like something else",
    "value_error": "{error}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "enum": "{expected}",
}
"""By pydantic's error type; what the type knows is in its context."""


def _explain(error: Mapping[str, Any], given: str) -> SettingError:
    template = _EXPECTED.get(error["type"])
    expected = template.format(**error.get("ctx", {})) if template else shown(error["msg"])
    return SettingError(f"{given} can't be used. Allowed: {expected}.")

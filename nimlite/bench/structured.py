"""Structured output: is every finished answer valid, and what does a grammar cost?"""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from nimlite.bench.random_schemas import random_schema
from nimlite.engine.engine import Engine
from nimlite.engine.request import (
    FinishReason,
    Grammar,
    GrammarKind,
    Request,
    SamplingParams,
)
from nimlite.errors import BenchmarkError, RequestError

_PROMPT = (
    "<|im_start|>user\nGive JSON under this schema: {schema}<|im_end|>\n<|im_start|>assistant\n"
)
_SHOWN_CHARS = 100
_MAX_DIGITS = 10_000
_ENDLESS = {
    "type": "array",
    "minItems": 100_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "role": {"enum": ["reader", "writer", "owner"]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        },
        "required": ["name", "age", "role", "tags"],
        "additionalProperties": False,
    },
}
"""An answer under it is as long as it may be."""


@dataclass(slots=True)
class Validity:
    """What became of the answers under many schemas."""

    num_schemas: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Schemas, by the reason without its place."""
    num_valid: int = 0
    num_cut: int = 0
    """Answers that `max_tokens` ended."""
    num_failed: int = 0
    """Answers that ended because nothing could follow any more."""
    wrong: list[str] = field(default_factory=list)
    """Finished answers that are not valid: seed, text and why."""

    def __str__(self) -> str:
        num_refused = sum(self.refused.values())
        return (
            f"{self.num_schemas} schemas, {num_refused} refused; of the answers {self.num_valid} "
            f"valid, {self.num_cut} cut by max_tokens, {self.num_failed} without a way on, "
            f"{len(self.wrong)} WRONG"
        )


def check_validity(
    engine: Engine, tokenizer: Tokenizer, *, num_schemas: int, num_in_flight: int, max_tokens: int
) -> Validity:
    """Two answers under each random schema, greedy and drawn, compared with jsonschema's view."""
    found = Validity()
    requests = _requests(engine, tokenizer, num_schemas, max_tokens, found)
    live: dict[str, list[int]] = {}
    while True:
        for request in itertools.islice(requests, num_in_flight - len(live)):
            live[request.id] = []
            engine.add(request)
        if not live:
            return found
        for delta in engine.step():
            live[delta.request_id].extend(delta.token_ids)
            if delta.finish_reason is not None:
                seed = int(delta.request_id.partition("-")[0])
                text = tokenizer.decode(live.pop(delta.request_id))
                _judge(found, seed, text, delta.finish_reason)


def _requests(
    engine: Engine, tokenizer: Tokenizer, num_schemas: int, max_tokens: int, found: Validity
) -> Iterator[Request]:
    for seed in range(num_schemas):
        found.num_schemas += 1
        text = json.dumps(random_schema(seed))
        grammar = Grammar(GrammarKind.JSON_SCHEMA, text)
        try:
            engine.grammars.check(grammar)
        except RequestError as error:
            found.refused[str(error).partition("': ")[2][:70]] += 1
            continue
        prompt = _PROMPT.format(schema=text[:_SHOWN_CHARS])
        for temperature in (0.0, 1.0):
            yield Request(
                id=f"{seed}-{temperature}",
                prompt_token_ids=tuple(tokenizer.encode(prompt).ids),
                params=SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens),
                grammar=grammar,
            )


def _judge(found: Validity, seed: int, text: str, reason: FinishReason) -> None:
    match reason:
        case FinishReason.STOP:
            fault = fault_of(text, random_schema(seed))
            if fault is None:
                found.num_valid += 1
            else:
                found.wrong.append(f"seed {seed}: {text[:200]!r}: {fault}")
        case FinishReason.LENGTH:
            found.num_cut += 1
        case _:
            found.num_failed += 1


def fault_of(text: str, schema: dict[str, Any]) -> str | None:
    """What jsonschema has against a text, None where it is valid. Numbers are decimal, as they are
    written: in binary ones 1.11 is no multiple of 0.01."""
    import jsonschema

    def is_integer(checker: object, value: object) -> bool:
        if isinstance(value, Decimal):
            return value == value.to_integral_value()
        return isinstance(value, int) and not isinstance(value, bool)

    try:
        value = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        return f"no JSON: {error}"
    draft = jsonschema.Draft202012Validator
    types = draft.TYPE_CHECKER.redefine("integer", is_integer)
    validator = jsonschema.validators.extend(draft, type_checker=types)(
        json.loads(json.dumps(schema), parse_float=Decimal),
        format_checker=jsonschema.FormatChecker(),
    )
    with localcontext(prec=_MAX_DIGITS):
        fault = jsonschema.exceptions.best_match(validator.iter_errors(value))
    return None if fault is None else str(fault.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Tokens a second of equal batches without grammars and with them."""

    batch: int
    plain_tok_s: float
    bound_tok_s: float

    @property
    def share(self) -> float:
        """What a grammar takes."""
        return 1 - self.bound_tok_s / self.plain_tok_s

    def __str__(self) -> str:
        return (
            f"batch of {self.batch}: {self.plain_tok_s:.1f} tok/s without a grammar, "
            f"{self.bound_tok_s:.1f} with one a sequence: {100 * self.share:+.1f} %"
        )


def measure_cost(
    engine: Engine, tokenizer: Tokenizer, *, batch: int, num_tokens: int, repeats: int
) -> Cost:
    """The best of `repeats`, taken in turns. Each sequence has a schema of its own."""
    prompt = tokenizer.encode(_PROMPT.format(schema=json.dumps(_ENDLESS))).ids
    grammars = [
        Grammar(GrammarKind.JSON_SCHEMA, json.dumps(_ENDLESS | {"title": f"People {i}"}))
        for i in range(batch)
    ]
    for grammar in grammars:
        engine.grammars.check(grammar)
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(repeats):
        for is_bound in speeds:
            for index in range(batch):
                engine.add(
                    Request(
                        id=f"{turn}-{is_bound}-{index}",
                        prompt_token_ids=(*prompt, index),
                        params=SamplingParams(
                            temperature=0.8, seed=index, max_tokens=num_tokens, ignore_eos=True
                        ),
                        grammar=grammars[index] if is_bound else None,
                    )
                )
            engine.step()  # the prompts' own time is none of it
            started, num_generated = time.perf_counter(), engine.stats.num_generated_tokens
            while engine.has_work:
                engine.step()
            num_generated = engine.stats.num_generated_tokens - num_generated
            speeds[is_bound].append(num_generated / (time.perf_counter() - started))
    return Cost(batch=batch, plain_tok_s=max(speeds[False]), bound_tok_s=max(speeds[True]))


def run_structured(
    engine: Engine,
    tokenizer_file: Path,
    *,
    num_schemas: int,
    batch: int,
    num_tokens: int,
    repeats: int,
) -> Iterator[str]:
    """Lines for people. Raises BenchmarkError where a finished answer is not valid."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    if repeats:
        cost = measure_cost(engine, tokenizer, batch=batch, num_tokens=num_tokens, repeats=repeats)
        yield str(cost)
    found = check_validity(
        engine, tokenizer, num_schemas=num_schemas, num_in_flight=batch, max_tokens=num_tokens
    )
    yield str(found)
    yield from (f"refused {count}: {reason}" for reason, count in found.refused.most_common())
    yield from found.wrong
    if found.wrong:
        raise BenchmarkError(f"{len(found.wrong)} finished answers are not valid.")

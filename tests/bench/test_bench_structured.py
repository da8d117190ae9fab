"""Finished answers under random schemas are valid, and a wrong one would be seen."""

import json

import jsonschema
import pytest
from fakes.llama import Llama
from tokenizers import Tokenizer

from nimlite.bench.random_schemas import random_schema
from nimlite.bench.structured import (
    Validity,
    _judge,
    check_validity,
    fault_of,
    measure_cost,
    run_structured,
)
from nimlite.build.tokenizer_files import byte_tokenizer
from nimlite.engine.request import FinishReason
from nimlite.errors import BenchmarkError
from nimlite.kernels.cpu.cpu_kernels import CpuKernels


def test_schemas_are_schemas_and_reproducible() -> None:
    keywords: set[str] = set()
    for seed in range(200):
        schema = random_schema(seed)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert json.dumps(schema) == json.dumps(random_schema(seed))
        keywords |= set(schema)
    assert {"pattern", "format", "multipleOf", "prefixItems", "oneOf", "not", "if"} <= keywords


def test_what_jsonschema_has_against_a_text() -> None:
    schema = {"type": "object", "properties": {"d": {"type": "string", "format": "date"}}}
    assert fault_of('{"d": "2024-02-29"}', schema) is None
    assert fault_of('{"d": "2023-02-29"}', schema) == "'2023-02-29' is not a 'date'"
    cents = {"type": "number", "multipleOf": 0.01}
    assert fault_of("1.11", cents) is None
    assert fault_of("1.115", cents).endswith("is not a multiple of 0.01")
    for text in ("2.0", "1e400", "-3E+2"):
        assert fault_of(text, {"type": "integer"}) is None
    assert fault_of("1e400", cents) is None
    assert fault_of("1e-4", {"type": "integer"}) is not None
    assert fault_of("[]", schema) == "[] is not of type 'object'"
    assert fault_of('{"d":', schema).startswith("no JSON: ")


def test_a_wrong_answer_is_seen() -> None:
    found, seed = Validity(), next(s for s in range(99) if fault_of("[3]", random_schema(s)))
    _judge(found, seed, "[3]", FinishReason.STOP)
    _judge(found, seed, "[3]", FinishReason.LENGTH)
    _judge(found, seed, "", FinishReason.REFUSED)
    assert (found.num_valid, found.num_cut, found.num_failed) == (0, 1, 1)
    [line] = found.wrong
    assert line.startswith(f"seed {seed}: '[3]': ")


def test_a_run_with_a_wrong_answer_fails(
    tiny: Llama, kernels: CpuKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nimlite.bench.structured.fault_of", lambda text, schema: "it is green")
    lines = run_structured(
        tiny.engine(kernels),
        tiny.tokenizer_directory / "tokenizer.json",
        num_schemas=9,
        batch=9,
        num_tokens=20,
        repeats=0,
    )
    with pytest.raises(BenchmarkError, match=r"^\d+ finished answers are not valid.$"):
        list(lines)


def test_random_schemas_by_a_random_model(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, num_blocks=500)
    found = check_validity(
        engine, byte_tokenizer(), num_schemas=60, num_in_flight=16, max_tokens=100
    )
    assert found.wrong == []
    assert found.num_valid > 40
    assert found.num_valid + found.num_cut == 2 * (60 - found.refused.total())


def test_random_schemas_by_smollm2(smollm2: Llama, kernels: CpuKernels) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2.tokenizer_directory / "tokenizer.json"))
    found = check_validity(
        smollm2.engine(kernels), tokenizer, num_schemas=4, num_in_flight=16, max_tokens=16
    )
    assert found.wrong == []
    assert found.num_valid >= 2


def test_lines_for_people(tiny: Llama, kernels: CpuKernels) -> None:
    file = tiny.tokenizer_directory / "tokenizer.json"
    engine = tiny.engine(kernels, num_blocks=400)
    lines = list(run_structured(engine, file, num_schemas=9, batch=3, num_tokens=12, repeats=1))
    assert lines[0].startswith("batch of 3: ") and "with one a sequence: " in lines[0]
    assert lines[1].startswith("9 schemas, ") and lines[1].endswith(" 0 WRONG")
    assert any(line.startswith("refused ") for line in lines[2:])


def test_the_cost_is_of_as_many_tokens(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, num_blocks=400)
    cost = measure_cost(engine, byte_tokenizer(), batch=2, num_tokens=20, repeats=1)
    assert engine.stats.num_generated_tokens == 2 * 2 * 20
    assert cost.share == pytest.approx(1 - cost.bound_tok_s / cost.plain_tok_s)

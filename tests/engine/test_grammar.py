"""Grammars are compiled once, refused with the reason and the place, and bounded."""

import json

import jsonschema
import pytest
from tokenizers import AddedToken, Tokenizer, models

from nimlite.build.tokenizer_files import byte_tokenizer
from nimlite.engine import grammar as grammar_module
from nimlite.engine.grammar import MAX_GRAMMAR_CHARS, GrammarCompiler
from nimlite.engine.request import Grammar, GrammarKind, Thoughts
from nimlite.errors import RequestError

EOS_ID = 256


def schema(content: object, **others: object) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(content), **others)


@pytest.fixture
def compiler() -> GrammarCompiler:
    return GrammarCompiler(byte_tokenizer(), 272, [EOS_ID])


def accepts(compiler: GrammarCompiler, grammar: Grammar, text: str) -> bool:
    """Whether the whole text follows the grammar."""
    matcher = compiler.matcher(grammar)
    ids = byte_tokenizer().encode(text).ids
    return matcher.validate_tokens([*ids, EOS_ID]) == len(ids) + 1


CAT = {"const": "cat"}
CAT_VALUES = {"additionalProperties": CAT}
LOOKS = {"type": "object", "properties": {"a": {"type": "array"}, "b": {}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("grammar", "accepted", "refused"),
    [
        (
            schema(LOOKS),
            ['{"a":[]}', '{"a": [1, {"x": "é"}], "b": null}', '{\n    "a": [\n        1\n    ]\n}'],
            ["{}", '{"b":1,"a":[]}', '{"a":  []}', ' {"a":[]}', '{"a":[]}\n', '{"a":[\n\n]}'],
        ),
        (schema({"enum": [1]}, whitespace=" *"), ["1"], ["1 ", "2"]),
        (schema(True), ["null", '{"a":[1]}'], ["nul"]),
        (schema(LOOKS, whitespace=""), ['{"a":[1,2]}'], ['{"a": [1,2]}']),
        (Grammar(GrammarKind.REGEX, "[ab]+c?"), ["a", "abc"], ["", "abcc", "xabc"]),
        (Grammar(GrammarKind.LARK, 'start: "é" | "x"+'), ["é", "xx"], ["e", ""]),
        (Grammar(GrammarKind.EBNF, 'root ::= "a" root | [0-9]'), ["aa7", "7"], ["a"]),
        (Grammar(GrammarKind.EBNF, 'start: "a" start | /[0-9]/'), ["aa7", "7"], ["a"]),
    ],
)
def test_texts_of(
    compiler: GrammarCompiler, grammar: Grammar, accepted: list[str], refused: list[str]
) -> None:
    for text in accepted:
        assert accepts(compiler, grammar, text), text
    for text in refused:
        assert not accepts(compiler, grammar, text), text


BRACKETS = ("[THINK]", "[/THINK]")
MARKS = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("marks", "is_open", "accepted", "refused"),
    [
        (BRACKETS, True, ["hm\n[/THINK]\n\n[1]", "[/THINK][1]"], ["[1]", "hm [1]"]),
        (BRACKETS, False, ["[THINK]a[/THINK][1]", "[1]"], ["hm[/THINK][1]", "[THINK][1]"]),
        (MARKS, True, ["hm\n</think>\n\n[1]", "</think>[1]"], ["[1]", "a</think>b</think>[1]"]),
        (MARKS, False, ["<think>a</think>[1]", "[1]"], ["hm</think>[1]", "<think>[1]"]),
    ],
)
def test_thoughts_come_first(
    marks: tuple[str, str], is_open: bool, accepted: list[str], refused: list[str]
) -> None:
    """Marks that are text, and marks that are tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    compiler = GrammarCompiler(tokenizer, 272, [EOS_ID])
    thoughts = Thoughts(*marks, is_open=is_open)
    grammars = [
        Grammar(GrammarKind.JSON_SCHEMA, '{"const": [1]}', thoughts=thoughts),
        Grammar(GrammarKind.REGEX, r"\[1\]", thoughts=thoughts),
        Grammar(GrammarKind.EBNF, 'root ::= "[" "1" "]"', thoughts=thoughts),
    ]
    for grammar in grammars:
        matcher = compiler.matcher(grammar)
        for text in accepted + refused:
            ids = [*tokenizer.encode(text).ids, EOS_ID]
            assert (matcher.validate_tokens(ids) == len(ids)) == (text in accepted), text
    # the mark's text without its token
    ids = [*b"a</think>[1]", EOS_ID]
    assert compiler.matcher(grammars[0]).validate_tokens(ids) < len(ids)


def test_what_comes_behind_thoughts_is_refused_as_ever(compiler: GrammarCompiler) -> None:
    thoughts = Thoughts(*MARKS, is_open=True)
    with pytest.raises(RequestError, match="at '#/items': 'not' is not supported here"):
        compiler.check(schema({"items": {"not": {}}}, thoughts=thoughts))


@pytest.mark.parametrize(
    ("content", "accepted", "refused"),
    [
        ({"type": "string", "format": "password"}, ['"x"'], ["1"]),
        ({"items": {"uniqueItems": False}, "unevaluatedItems": True}, ["[[1,1]]"], ["["]),
        (
            {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": CAT},
            ['{"a":"cat"}', "{}"],
            ['{"a":1}'],
        ),
        (
            {"type": "object", "propertyNames": {"pattern": "^[ab]+$"}},
            ['{"ab":{}}', "{}"],
            ['{"c":1}'],
        ),
        (
            {"type": "object", "propertyNames": {"enum": ["x", "a.b(", "é"]}, **CAT_VALUES},
            ['{"x":"cat"}', '{"a.b(": "cat", "é": "cat"}'],
            ['{"axb(":"cat"}', '{"x":1}', '{"xx":"cat"}'],
        ),
        # what is data or a name is no keyword
        (
            {"const": {"format": "path", "uniqueItems": False}},
            ['{"format": "path","uniqueItems":false}'],
            [],
        ),
        (
            {"properties": {"format": {"const": "path"}}, "required": ["format"], "type": "object"},
            ['{"format":"path"}'],
            ['{"format":1}'],
        ),
    ],
)
def test_what_asks_for_nothing_is_left_out(
    compiler: GrammarCompiler, content: object, accepted: list[str], refused: list[str]
) -> None:
    for text in accepted:
        assert accepts(compiler, schema(content), text), text
        jsonschema.validate(json.loads(text), content)
    for text in refused:
        assert not accepts(compiler, schema(content), text), text


DEEP = {"type": "object", "properties": {"a/b": {"anyOf": [{"type": "null"}, {"not": {}}]}}}
EMPTY = {"type": "integer", "minimum": 5, "maximum": 3}


@pytest.mark.parametrize(
    ("grammar", "sentence"),
    [
        (
            schema({"type": "array", "uniqueItems": True}, param="response_format"),
            "The JSON schema in 'response_format' can't be followed: at '#': 'uniqueItems' is not "
            "supported here.",
        ),
        (schema(DEEP), "at '#/properties/a~1b/anyOf/1': 'not' is not supported here."),
        (
            schema({"$ref": "#/$defs/x", "$defs": {"x": {"items": {"if": {}, "then": {}}}}}),
            "at '#/$defs/x/items': 'if', 'then' is not supported here.",
        ),
        (
            schema({"properties": {"n": EMPTY}, "required": ["n"], "type": "object"}),
            "at '#/properties/n': Unsatisfiable schema: minimum (5) is greater than maximum (3).",
        ),
        (schema({"$ref": "https://example.org/s"}), "at '#': Resource 'https://example.org/s'"),
        (schema({"type": "string", "format": "regex"}), "at '#': Unknown format: regex."),
        (
            schema({"propertyNames": {"minLength": 2}}),
            "at '#': 'propertyNames' is not supported here.",
        ),
        (
            schema({"properties": {"a": {}}, "propertyNames": {"pattern": "a"}}),
            "at '#': 'propertyNames' is not supported here.",
        ),
        (Grammar(GrammarKind.JSON_SCHEMA, "[" * 9999), "recursion depth exceeded"),
        (
            Grammar(GrammarKind.JSON_SCHEMA, '{"items":' * 300 + "{}" + "}" * 300),
            "recursion limit exceeded",
        ),
        (schema(False), "at '#': 'not' is not supported here."),
        (schema({"type": "strin"}), "at '#': Invalid type: strin."),
        (schema({"$ref": "#"}), "at '#': no text follows it to its end."),
        (schema([1]), "The grammar can't be read: a JSON schema is an object, or true, or false."),
        (Grammar(GrammarKind.JSON_SCHEMA, "{"), "can't be read: Expecting property name"),
        (
            Grammar(GrammarKind.REGEX, "a(?=b)", param="guided_regex"),
            "The grammar in 'guided_regex' can't be followed: at 1(8): invalid regex",
        ),
        (Grammar(GrammarKind.LARK, 'start: start "a"'), "no text follows it to its end."),
        (Grammar(GrammarKind.LARK, "start: thing"), 'unknown name: "thing"'),
        (
            Grammar(GrammarKind.EBNF, "hello"),
            "can't be read: as GBNF: Expected ::= at line 1, 'hello' ^ ''; and a Lark grammar has "
            "a rule 'start: …'.",
        ),
        (Grammar(GrammarKind.EBNF, "root ::= " + "(" * 5000), "maximum recursion depth"),
        (
            Grammar(GrammarKind.REGEX, "a" * (MAX_GRAMMAR_CHARS + 1)),
            "The grammar has 262145 characters; at most 262144 are read here.",
        ),
        (Grammar(GrammarKind.REGEX, "(" * 5000 + ")" * 5000), "invalid regex"),
        (Grammar(GrammarKind.LARK, "start: " + "(" * 5000), "too deeply nested"),
    ],
)
def test_refusals_of(compiler: GrammarCompiler, grammar: Grammar, sentence: str) -> None:
    for _ in range(2):
        with pytest.raises(RequestError) as raised:
            compiler.check(grammar)
        assert sentence in str(raised.value)
        assert (raised.value.param, raised.value.error_code) == (grammar.param, "invalid_grammar")
        assert compiler.knows(grammar)


def test_a_schema_may_not_loosen_the_rules(compiler: GrammarCompiler) -> None:
    with pytest.raises(RequestError, match="'not' is not supported"):
        compiler.check(schema({"x-guidance": {"lenient": True}, "not": {}}))
    blanks = schema({"type": "array", "x-guidance": {"whitespace_pattern": " *"}})
    assert not accepts(compiler, blanks, "[    ]")


def test_the_latest_used_are_kept(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "_MAX_COMPILED", 2)
    monkeypatch.setattr(grammar_module, "_MAX_COMPILED_CHARS", 20)
    first, second, third = (Grammar(GrammarKind.REGEX, text) for text in "abc")
    for grammar in (first, second, first, third):
        compiler.check(grammar)
    assert [compiler.knows(grammar) for grammar in (first, second, third)] == [True, False, True]
    compiler.check(Grammar(GrammarKind.REGEX, "x" * 19))
    assert [compiler.knows(grammar) for grammar in (first, third)] == [False, True]
    assert accepts(compiler, first, "a")


def test_matchers_share_no_state(compiler: GrammarCompiler) -> None:
    grammar = Grammar(GrammarKind.REGEX, "[ab]c")
    one, other = compiler.matcher(grammar), compiler.matcher(grammar)
    assert one.consume_tokens([97, 99])
    assert (one.is_accepting(), other.is_accepting()) == (True, False)
    assert other.consume_tokens([98])


def test_a_model_without_an_end_follows_no_grammar() -> None:
    compiler = GrammarCompiler(byte_tokenizer(), 272, [])
    with pytest.raises(RequestError, match="no token that ends a text"):
        compiler.check(Grammar(GrammarKind.REGEX, "a"))


def test_a_tokenizer_without_bytes_is_told_of() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "[END]": 1}, unk_token="[END]"))
    for tokenizer, sentence in (
        (words, "tokenizer can't be used with grammars: can't determine decoder type"),
        (None, "This engine has no tokenizer, which grammars need."),
    ):
        with pytest.raises(RequestError, match=sentence):
            GrammarCompiler(tokenizer, 2, [1]).check(Grammar(GrammarKind.REGEX, "a"))


def test_more_logits_than_tokens_and_fewer() -> None:
    for vocab_size, num_bits in ((100, 257), (1000, 1000)):
        compiler = GrammarCompiler(byte_tokenizer(), vocab_size, [EOS_ID])
        assert compiler.vocab_size == num_bits
        compiler.check(Grammar(GrammarKind.REGEX, "a"))

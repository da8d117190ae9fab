"""Random JSON schemas: every keyword of draft 2020-12 that says something about a value, common
ones often, in combinations that nobody would write."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any] | bool

_PATTERNS = (
    "^[a-z]{2,5}$",
    r"^\d{3}-\d{4}$",
    "[A-Z]",
    "^(foo|bar)+$",
    "^x",
    "y$",
    r'^[^"\\]*$',
    r"\w+@\w+",
    r"^\S{1,3}$",
    "^a|b$",
    "^é+$",
    "(?:ab){2}",
    "^.{3}$",
)
_FORMATS = (
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "json-pointer",
    "time",
    "uri",
    "uuid",
)
_NAMES = ("a", "b", "name", "id", "x y", "é", "$ref", 'q"', "__proto__")
_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_TEXTS = ("", "a", "b\n", "é", '"q"', "日本", "x" * 10)
_DEPTH = 3


def random_schema(seed: int) -> dict[str, Any]:
    """The same for the same seed. It may be impossible, or use what is seldom supported."""
    maker = _Maker(random.Random(seed))
    root = maker.schema(_DEPTH)
    if isinstance(root, bool):
        root = {} if root else {"not": {}}
    return root | {"$defs": {"d0": maker.schema(_DEPTH - 1), "d1": maker.schema(1)}}


class _Maker:
    """`depth`: how many levels may lie below."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def schema(self, depth: int) -> Schema:
        if self._may(0.05):
            return self._may(0.9)
        kinds: list[Callable[[int], dict[str, Any]]] = [
            self._string,
            self._string,
            self._number,
            self._number,
            self._constant,
            self._constant,
            self._simple,
            self._several_types,
            self._reference,
        ]
        if depth > 0:
            kinds += [self._array] * 2 + [self._object] * 3 + [self._combined, self._seldom]
        return self._rng.choice(kinds)(depth) | self._annotations()

    def _may(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _some(self, keywords: dict[str, tuple[float, Callable[[], Any]]]) -> dict[str, Any]:
        """Each keyword with its probability."""
        return {name: make() for name, (p, make) in keywords.items() if self._may(p)}

    def _string(self, depth: int) -> dict[str, Any]:
        return {"type": "string"} | self._some(
            {
                "minLength": (0.4, lambda: self._rng.randrange(4)),
                "maxLength": (0.4, lambda: self._rng.randrange(12)),
                "pattern": (0.25, lambda: self._rng.choice(_PATTERNS)),
                "format": (0.2, lambda: self._rng.choice(_FORMATS)),
            }
        )

    def _number(self, depth: int) -> dict[str, Any]:
        r = self._rng
        return {"type": r.choice(("integer", "number"))} | self._some(
            {
                "minimum": (
                    0.4,
                    lambda: r.choice((r.randint(-99, 99), round(r.uniform(-9, 9), 2))),
                ),
                "maximum": (
                    0.4,
                    lambda: r.choice((r.randint(-9, 999), round(r.uniform(0, 99), 2))),
                ),
                "exclusiveMinimum": (0.2, lambda: r.randint(-100, 100)),
                "exclusiveMaximum": (0.2, lambda: r.randint(-10, 1000)),
                "multipleOf": (0.25, lambda: r.choice((1, 2, 3, 5, 7, 0.5, 0.1, 0.01))),
            }
        )

    def _constant(self, depth: int) -> dict[str, Any]:
        if self._may(0.5):
            return {"const": self._value(2)}
        return {"enum": [self._value(2) for _ in range(self._rng.randrange(1, 5))]}

    def _simple(self, depth: int) -> dict[str, Any]:
        return self._rng.choice(({}, {"type": "boolean"}, {"type": "null"}))

    def _several_types(self, depth: int) -> dict[str, Any]:
        types = self._rng.sample(_TYPES, self._rng.randrange(1, 4))
        return {"type": types} | self._some(
            {
                "minimum": (0.4, lambda: self._rng.randint(-5, 5)),
                "maxLength": (0.4, lambda: self._rng.randrange(5)),
                "items": (0.2, lambda: self.schema(depth - 1)),
                "enum": (0.2, lambda: [self._value(2) for _ in range(self._rng.randrange(1, 6))]),
            }
        )

    def _reference(self, depth: int) -> dict[str, Any]:
        return {"$ref": self._rng.choice(("#/$defs/d0", "#/$defs/d1"))}

    def _array(self, depth: int) -> dict[str, Any]:
        r = self._rng
        return {"type": "array"} | self._some(
            {
                "items": (0.6, lambda: self.schema(depth - 1)),
                "prefixItems": (0.25, lambda: self._schemas(depth)),
                "minItems": (0.4, lambda: r.randrange(3)),
                "maxItems": (0.5, lambda: r.randrange(5)),
                "uniqueItems": (0.05, lambda: True),
                "contains": (0.05, lambda: self.schema(depth - 1)),
            }
        )

    def _object(self, depth: int) -> dict[str, Any]:
        r = self._rng
        names = r.sample(_NAMES, r.randrange(1, 4))
        made = {"type": "object"} | self._some(
            {
                "properties": (0.85, lambda: {name: self.schema(depth - 1) for name in names}),
                "required": (0.6, lambda: r.sample(names, r.randrange(len(names) + 1))),
                "additionalProperties": (
                    0.6,
                    lambda: r.choice((False, False, True, self.schema(depth - 1))),
                ),
                "patternProperties": (
                    0.15,
                    lambda: {r.choice(("^p_", r"\d$", "^[a-z]$")): self.schema(depth - 1)},
                ),
                "minProperties": (0.1, lambda: r.randrange(3)),
                "maxProperties": (0.1, lambda: r.randrange(5)),
                "propertyNames": (0.04, lambda: {"pattern": "^[a-z]+$"}),
                "dependentRequired": (0.04, lambda: {"a": ["b"]}),
            }
        )
        return made

    def _combined(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {
            self._rng.choice(("anyOf", "anyOf", "oneOf", "allOf")): self._schemas(depth)
        }
        beside = self.schema(0)
        return made | beside if self._may(0.3) and isinstance(beside, dict) else made

    def _seldom(self, depth: int) -> dict[str, Any]:
        keyword = self._rng.choice(("not", "if", "dependentSchemas", "unevaluatedProperties"))
        if keyword == "if":
            return {"if": self.schema(1), "then": self.schema(1)}
        one = self.schema(1)
        return {keyword: {"a": one} if keyword == "dependentSchemas" else one}

    def _schemas(self, depth: int) -> list[Schema]:
        return [self.schema(depth - 1) for _ in range(self._rng.randrange(1, 4))]

    def _annotations(self) -> dict[str, Any]:
        return self._some(
            {
                "title": (0.1, lambda: "A title"),
                "description": (0.1, lambda: "What it is"),
                "default": (0.05, lambda: self._value(1)),
                "examples": (0.05, lambda: [self._value(1)]),
                "deprecated": (0.02, lambda: True),
            }
        )

    def _value(self, depth: int) -> Any:
        r = self._rng
        kinds: list[Callable[[], Any]] = [
            lambda: None,
            lambda: self._may(0.5),
            lambda: r.randint(-20, 2000),
            lambda: round(r.uniform(-5, 5), 3),
            lambda: r.choice(_TEXTS),
            lambda: r.choice((0, 1, 1.0, -0.0, 1e3)),
        ]
        if depth:
            kinds += [
                lambda: [self._value(depth - 1) for _ in range(r.randrange(3))],
                lambda: {r.choice("abc"): self._value(depth - 1) for _ in range(r.randrange(3))},
            ]
        return r.choice(kinds)()

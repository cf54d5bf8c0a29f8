"""What the schema allows, as values, as `key=value` text, as INI and as TOML; and what comes of it when bytes are changed.

An attacker who sends noise learns only how syntax errors look. These values are right most of the time, so that they come past
the parsers, and wrong now and then, in one place.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tests.fuzz.attack import INTEGERS, NAMES, ODD

if TYPE_CHECKING:
    import random

DOCUMENT: dict[str, Any] = json.loads(
    files("qemud._generated").joinpath("json-schema-riscv64.json").read_text("utf-8")
)
TYPES: dict[str, Any] = DOCUMENT["$defs"]

_SIZES = (
    "4096",
    "64M",
    "1.5G",
    "0x1000",
    "16k",
    "1E",
    "8e",
    "1.",
    "-1",
    "+5",
    " 5",
    "0b1",
    "1_000",
    "64MB",
    "inf",
)
_WORDS = ("on", "off", "yes", "true", "", "auto", "a", "a,,b", "help")
_DEEP = 12
_WRONG = 0.02
"""How often a value is not what the schema says. A value has many parts."""


class Grammar:
    """Values of types of the schema."""

    def __init__(self, numbers: random.Random) -> None:
        self._random = numbers
        self.names: list[str] = ["a", "b", "c0", "d.e", "null", "none", "chardev:a", "virt", "4096", *NAMES]

    def value(self, type_name: str) -> Any:
        """A value of a type of the schema, or nearly one."""
        return self._of(TYPES[type_name], 0)

    def _of(self, schema: dict[str, Any], depth: int) -> Any:
        choose = self._random
        if choose.random() < _WRONG:
            return self.junk()
        if "$ref" in schema:
            return self._of(TYPES[schema["$ref"].rpartition("/")[2]], depth + 1)
        for choice in ("oneOf", "anyOf"):
            if choice in schema:
                return self._of(choose.choice(schema[choice]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return choose.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                count = choose.choice([0, 1, 1, 2]) if depth < _DEEP else 0
                return [self._of(schema["items"], depth + 1) for _ in range(count)]
            case "string":
                return choose.choice(self.names if choose.random() < 0.9 else ODD)
            case "integer":
                low, high = max(schema["minimum"], -100), min(schema["maximum"], 1 << 16)
                return choose.randint(low, high) if choose.random() < 0.9 else choose.choice(INTEGERS)
            case "boolean":
                return choose.random() < 0.5
            case "number":
                return choose.choice([0, -1.5, 1e308])
            case "null":
                return None
        return self.junk()

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        choose = self._random
        needed = schema.get("required", ())
        often = 0.3 if depth < _DEEP else 0
        made = {
            name: self._of(member, depth + 1)
            for name, member in schema["properties"].items()
            if choose.random() < (0.99 if name in needed else often)
        }
        if choose.random() < _WRONG:
            made[choose.choice([*self.names, *ODD])] = self.junk()
        return made

    def junk(self, depth: int = 0) -> Any:
        """Anything that JSON has."""
        choose = self._random
        plain = [None, True, 0, -1, 1.5, "", choose.choice(ODD), choose.choice(INTEGERS)]
        return choose.choice(
            plain
            if depth > 3
            else [*plain, [self.junk(depth + 1)], {choose.choice(ODD): self.junk(depth + 1)}]
        )

    def keyval(self, value: Any, implied: str | None = None) -> str:
        """An object as `key=value`, with dotted keys; the value of `implied` stands alone at times."""
        parts: list[str] = []
        for key, text in _flat(value, ""):
            if isinstance(text, str) and self._random.random() < 0.05:
                text = self._random.choice([*_SIZES, *_WORDS])  # noqa: PLW2901 - one text for another
            plain = "on" if text is True else "off" if text is False else str(text)
            plain = plain.replace(",", ",,")
            parts.append(
                plain if key == implied and not parts and self._random.random() < 0.7 else f"{key}={plain}"
            )
        return self.changed(",".join(parts), ",=.0")

    def changed(self, text: str, letters: str) -> str:
        """The same, or with a small change; `letters` are those that the syntax gives a meaning."""
        choose = self._random
        if choose.random() < 0.75:
            return text
        for _ in range(choose.choice([1, 1, 2, 5])):
            start, end = sorted(choose.randrange(len(text) + 1) for _ in range(2))
            end = min(end, start + choose.choice([0, 1, 1, 8, 1000]))
            new = choose.choice([*letters, *letters, *ODD, text[start : start + 30] * 2])
            text = text[:start] + new + text[end:]
        return text


def changed_bytes(data: bytes, numbers: random.Random, letters: bytes) -> bytes:
    """Bytes with a few of them missing, more, twice or others."""
    for _ in range(numbers.choice([0, 0, 1, 1, 2, 6])):
        start = numbers.randrange(len(data) + 1)
        end = min(len(data), start + numbers.choice([0, 1, 1, 5, 100]))
        new = numbers.choice(
            [
                b"",
                numbers.randbytes(3),
                bytes([numbers.choice(letters)]),
                bytes([numbers.choice(letters)]) * 40,
                data[start:end] * 2,
            ]
        )
        data = data[:start] + new + data[end:]
    return data


def toml(document: Any) -> str:
    """A document in TOML; what TOML cannot say is left to fail."""
    if not isinstance(document, dict):
        return _toml(document)
    return "".join(f"{_key(name)} = {_toml(value)}\n" for name, value in document.items())


def _toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_key(name)} = {_toml(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _flat(value: Any, key: str) -> list[tuple[str, Any]]:
    match value:
        case dict():
            pairs = list(value.items())
        case list():
            pairs = list(enumerate(value))
        case _:
            return [(key, value)]
    return [pair for name, each in pairs for pair in _flat(each, f"{key}.{name}" if key else str(name))]

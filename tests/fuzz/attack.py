"""What the attacks share: how long they go on, their seed, and messages made from what introspection tells."""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs import QmpClient

SECONDS = float(os.environ.get("QEMUD_FUZZ_SECONDS", "0"))

SEED = int(os.environ["QEMUD_FUZZ_SEED"]) if "QEMUD_FUZZ_SEED" in os.environ else None

CONFINED = {"PYTHONPATH": str(Path(__file__).with_name("confined"))}
"""Environment that keeps a program from writing outside the directory that it is started in."""

INTEGERS = (
    0,
    1,
    -1,
    7,
    256,
    65535,
    2**31 - 1,
    -(2**31),
    2**32,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**63,
    2**64 - 1,
)

# Files that exist whoever runs this; the others are relative, and the attack's directory is its own.
NAMES = (
    "",
    "a",
    "b",
    "c0",
    "..",
    "a/b",
    "zero\0byte",
    "/dev/null",
    "/dev/full",
    "/nonexistent/a",
)
ODD = (
    "\x7f\t\n",
    "\ud800",
    "é€😀",
    "%s%n",
    "A" * 108,
    "A" * 5000,
    "-1",
    "0x10",
    "1e9",
    "on",
    "{}",
    "unix:s",
    " ",
)

_TOO_MUCH = 1 << 22
"""What a client may ask for and get, but is not wanted in a test: bytes that are allocated or written."""

_ENDS = frozenset({"quit", "x-exit-preconfig", "monitor-remove", "monitor-add", "yank"})
"""Commands that end the process, or the attacker's own connection, as they should."""


@contextlib.contextmanager
def attack() -> Iterator[random.Random]:
    """Random numbers: the same ones each time where hypothesis is not random either, as in CI."""
    same = settings.default is not None and settings.default.derandomize and not SECONDS
    seed = SEED if SEED is not None else 1 if same else random.SystemRandom().getrandbits(32)
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"seed: {seed}")
        raise


def rounds(count: int, *, of: int = 1) -> Iterator[int]:
    """Count up to `count`, or for as long as is asked for; `of` so many tests that share the time."""
    end = time.monotonic() + SECONDS / of
    number = 0
    while number < count or time.monotonic() < end:
        yield number
        number += 1


def names_of(qmp: QmpClient) -> list[str]:
    """Paths of the composition tree, its members, and all types."""
    names = [entry["name"] for entry in qmp.command("qom-list-types")]
    paths = ["/"]
    for path in paths:
        for member in qmp.command("qom-list", path=path):
            names.append(member["name"])
            if member["type"].startswith("child<"):
                paths.append(f"{path.rstrip('/')}/{member['name']}")
    return [*names, *paths]


class Messages:
    """QMP messages after `query-qmp-schema`: most of them valid, few of them sensible, some of them broken."""

    def __init__(self, schema: list[dict[str, Any]], numbers: random.Random) -> None:
        self._random = numbers
        self._types = {entity["name"]: entity for entity in schema}
        self._commands = [
            entity for entity in schema if entity["meta-type"] == "command" and entity["name"] not in _ENDS
        ]
        self.names = [*NAMES]
        """Strings to choose from most of the time; whoever knows more names adds them."""

    def message(self) -> dict[str, Any]:
        """The next one."""
        choose = self._random
        command = choose.choice(self._commands)
        arguments = self._value(command["arg-type"], 0)
        if not command["name"].startswith("qom-"):  # what is no path of QOM's may be a file's
            arguments = _relative(arguments)
        if command["name"] == "set-action":
            arguments = {"shutdown": "pause", "panic": "pause"}
        message = {"execute": command["name"], "arguments": arguments}
        if choose.random() < 0.03:
            message["exec-oob"] = message.pop("execute")
        if choose.random() < 0.02:
            message[choose.choice(["execute", "arguments", self._string()])] = self._junk(0)
        message["id"] = choose.choice([0, "id", None, [], {"a": 1.5}])
        return message

    def _value(self, name: str, depth: int) -> Any:
        if self._random.random() < 0.02:
            return self._junk(0)
        entity = self._types[name]
        match entity["meta-type"]:
            case "builtin":
                return self._scalar(entity["json-type"])
            case "enum":
                return self._random.choice([member["name"] for member in entity["members"]] or [""])
            case "array":
                count = self._random.choice([0, 1, 1, 2]) if depth < 4 else 0
                return [self._value(entity["element-type"], depth + 1) for _ in range(count)]
            case "alternate":
                return self._value(self._random.choice(entity["members"])["type"], depth + 1)
        return self._object(entity, depth)

    def _object(self, entity: dict[str, Any], depth: int) -> dict[str, Any]:
        choose = self._random
        result: dict[str, Any] = {}
        for member in entity["members"]:
            if choose.random() >= (("default" in member) * (0.6 if depth < 4 else 0.95) or 0.01):
                result[member["name"]] = self._value(member["type"], depth + 1)
        if "tag" in entity and choose.random() < 0.97:
            variant = choose.choice(entity["variants"])
            more = self._value(variant["type"], depth + 1)
            result = {**(more if isinstance(more, dict) else {}), **result, entity["tag"]: variant["case"]}
        if choose.random() < 0.02:
            result[self._string()] = self._junk(0)
        if isinstance(result.get("size"), int) and result["size"] > _TOO_MUCH:
            result["size"] %= _TOO_MUCH
        if result.get("wait") is True:  # a socket's, for a client: the answer comes when it does
            result["wait"] = False
        # How long the answer may take, seconds: until an NBD server is there.
        if isinstance(result.get("open-timeout"), int) and result["open-timeout"] > 1:
            result["open-timeout"] %= 2
        return result

    def _scalar(self, kind: str) -> Any:
        choose = self._random
        match kind:
            case "string":
                return self._string()
            case "int":
                return choose.choice(INTEGERS) if choose.random() < 0.7 else choose.randrange(1 << 20)
            case "number":
                return choose.choice([0, -1.5, 1e308, 2**64])
            case "boolean":
                return choose.random() < 0.5
            case "null":
                return None
        return self._junk(0)

    def _string(self) -> str:
        return self._random.choice(self.names if self._random.random() < 0.8 else ODD)

    def _junk(self, depth: int) -> Any:
        kind = self._random.choice(["string", "int", "number", "boolean", "null", "list", "dict"])
        if kind == "list":
            return [self._junk(depth + 1)] if depth < 5 else []
        if kind == "dict":
            return {self._string(): self._junk(depth + 1)} if depth < 5 else {}
        return self._scalar(kind)


def _relative(value: Any) -> Any:
    """The same without names of files outside the attack's directory."""
    if isinstance(value, str):
        return value if value in NAMES else value.lstrip("/")
    if isinstance(value, list):
        return [_relative(element) for element in value]
    if isinstance(value, dict):
        return {_relative(name): _relative(element) for name, element in value.items()}
    return value

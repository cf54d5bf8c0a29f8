"""The older of QEMU's two syntaxes for `key=value` options, which most options of the command line still have.

    parse("guest=vm1,process=x", "-name")                      -> {"guest": "vm1", "process": "x"}
    parse("stdio,id=c0,mux=on", "-chardev", implied="backend") -> {"backend": "stdio", "id": "c0", "mux": "on"}

It differs from keyval, the newer one (`qemud.qapi.runtime.keyval`), in what it forgives: a later key replaces an earlier one
silently, and a word without a value switches something on (`server`) or, with `no` before it, off (`nowait`), with a warning.
Values are text; `convert` gives them the types of a struct, with this syntax's own error texts.

Source: QEMU 10.0, util/qemu-option.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime import scalars
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

IDENTIFIER_HINT = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
HELP = frozenset(("help", "?"))
"""Words that ask for help where an option has it."""
SIZE_HINT = (
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
)


class HintedError(GenericError):
    """An error with a hint for people, on lines of its own below the error."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def split(text: str) -> list[str]:
    """Cut at commas; two commas stand for one within a part. An empty text has no parts."""
    parts: list[str] = []
    part = ""
    rest = text
    while rest:
        head, comma, rest = rest.partition(",")
        part += head
        if comma and rest.startswith(","):
            part += ","
            rest = rest[1:]
            if rest:
                continue
        parts.append(part)
        part = ""
    return parts


def parse(
    text: str, *, implied: str | None = None, warn: Callable[[str], None] | None = None
) -> dict[str, str]:
    """The keys and values of one option; `implied` is the key of a first part that has none.

    Raises HintedError for an `id` that is no identifier. `warn` is told of words without a value.
    """
    values: dict[str, str] = {}
    for index, part in enumerate(split(text)):
        key, equals, value = part.partition("=")
        if not equals:
            if index == 0 and implied is not None:
                key, value = implied, part
            else:
                key, value = (part[2:], "off") if part.startswith("no") and len(part) > 2 else (part, "on")
                if warn is not None and part not in HELP:
                    warn(f"short-form boolean option '{part}' deprecated\nPlease use {key}={value} instead")
        # A later value replaces the earlier one, in its later place.
        values.pop(key, None)
        values[key] = value
    if "id" in values:
        check_identifier(values["id"])
    return values


def check_identifier(text: str) -> None:
    """Refuse what cannot name an object or a device."""
    # No pattern: compiling one would hold up every greeting.
    letters = text.translate(dict.fromkeys(map(ord, "-._")))
    if not (text.isascii() and text[:1].isalpha() and letters.isalnum()):
        raise HintedError("Parameter 'id' expects an identifier", IDENTIFIER_HINT)


def boolean(name: str, text: str) -> bool:
    """`on` or `off`, or one of their other spellings."""
    try:
        return scalars.parse_bool(text)
    except ValueError as error:
        raise GenericError(f"Parameter '{name}' expects {error}") from None


def number(name: str, text: str) -> int:
    """An unsigned number of 64 bits, decimal, `0x` or octal with a leading `0`."""
    try:
        return scalars.parse_uint64(text)
    except scalars.OutOfRangeError:
        # QEMU takes a negative number for the large one that has the same bits.
        size = "small" if text.lstrip().startswith("-") else "large"
        raise GenericError(f"Value '{text}' is too {size} for parameter '{name}'") from None
    except ValueError:
        raise GenericError(f"Parameter '{name}' expects a number") from None


def size(name: str, text: str, default_suffix: str = "B") -> int:
    """A number of bytes with an optional suffix and, before it, an optional fraction."""
    try:
        return scalars.parse_size(text, default_suffix)
    except scalars.OutOfRangeError:
        raise GenericError(f"Value '{text}' is out of range for parameter '{name}'") from None
    except ValueError:
        raise HintedError(f"Parameter '{name}' expects a non-negative number below 2^64", SIZE_HINT) from None


def convert(values: Mapping[str, str], kinds: Mapping[str, Callable[[str, str], Any]]) -> dict[str, Any]:
    """Give the values their types; `kinds` has a converter for every key that is taken. Raises GenericError."""
    for name in values:
        if name not in kinds:
            raise GenericError(f"Invalid parameter '{name}'")
    return {name: kinds[name](name, text) for name, text in values.items()}


def text(_name: str, value: str) -> str:
    """A value that stays as it is written."""
    return value

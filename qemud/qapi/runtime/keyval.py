"""`key=value,…`, the command line's syntax for what is JSON elsewhere, and typed values from it.

    values = parse_keyval("virt,smp.cpus=1", "type")          # {"type": "virt", "smp": {"cpus": "1"}}
    options = parse_keyval_type("MachineOptions", values)     # the struct that QMP's JSON would give

Keys are paths: fragments joined by dots, a fragment that is a number an index of an array.  A comma in a value is
written twice.  With an implied key the first part may be a bare value.  `help` or `?` alone asks for help.

All leaves are strings; the schema says what each of them means.  Values that are no strings are taken as in JSON, so that
typed and written ones may be mixed.

Source: QEMU 10.0, util/keyval.c and the keyval half of qapi/qobject-input-visitor.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from qemud.qapi.runtime import scalars
from qemud.qapi.runtime.check import Checker, checker
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.exact import ExactVisitor
from qemud.qapi.runtime.shapes import INTEGER_RANGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.qapi.runtime.exact import Where

T = TypeVar("T")

MAX_FRAGMENT = 127
_MAX_INDEX = (1 << 31) - 1


def parse_keyval(text: str, implied_key: str | None = None) -> dict[str, Any]:
    """The values of an option that has no help: nested dicts and lists, the leaves strings.

    Raises `GenericError` with QEMU's text.
    """
    values, help_wanted = parse_keyval_or_help(text, implied_key)
    if help_wanted:
        raise GenericError("Help is not available for this option")
    return values


def parse_keyval_or_help(text: str, implied_key: str | None = None) -> tuple[dict[str, Any], bool]:
    """The values of an option, and whether it asks for help."""
    values: dict[str, Any] = {}
    help_wanted = False
    rest = text
    while rest:
        end = _end_of_key(rest)
        if end and rest[end : end + 1] != "=" and rest[:end] in {"help", "?"}:
            help_wanted = True
            rest = rest[end + 1 :]
        elif end and rest[end : end + 1] != "=" and implied_key is not None:
            _put_path(values, implied_key, rest[:end])
            rest = rest[end + 1 :]
        else:
            rest = _parse_one(values, rest, end)
        implied_key = None
    try:
        listified = _listify(values, "")
    except RecursionError:
        raise GenericError("Parameters are nested too deeply") from None
    assert listified is values
    return values, help_wanted


def parse_keyval_type(type_name: str, values: Any, where: str | None = None, check: Checker = checker) -> Any:
    """The typed value of a type of the schema from what `parse_keyval` returned.

    `where` is the name that error texts put before the values' own (`smp` in `Parameter 'smp.cpus' expects integer`).
    Raises `GenericError` with QEMU's text.
    """
    return check.parse_exactly(
        type_name, values, KeyvalVisitor(check, check.defined), None if where is None else (None, where)
    )


class KeyvalVisitor(ExactVisitor):
    """The exact check with scalars as strings."""

    def _for_defaults(self) -> ExactVisitor:
        return ExactVisitor(self._types, self._defined)

    def _string(self, value: Any, where: Where) -> str:
        if type(value) is list or type(value) is dict:
            raise GenericError(f"Parameters '{self._full(where)}.*' are unexpected")
        return super()._string(value, where)

    def _boolean(self, value: Any, where: Where) -> bool:
        if self._is_typed(value):
            return super()._boolean(value, where)
        return self._parsed(scalars.parse_bool, value, where)

    def _number(self, value: Any, where: Where) -> float:
        if self._is_typed(value):
            return super()._number(value, where)
        try:
            return scalars.parse_number(self._string(value, where))
        except ValueError:
            self._wrong_type(where, "number")

    def _int64(self, value: Any, where: Where) -> int:
        if self._is_typed(value):
            return super()._int64(value, where)
        return self._parsed(scalars.parse_int64, value, where)

    def _uint64(self, value: Any, where: Where) -> int:
        if self._is_typed(value):
            return super()._uint64(value, where)
        return self._parsed(scalars.parse_uint64, value, where)

    def _size(self, value: Any, where: Where) -> int:
        if self._is_typed(value):
            return super()._size(value, where)
        return self._parsed(scalars.parse_size, value, where)

    def _ranged(self, reference: str, value: Any, where: Where) -> int:
        if self._is_typed(value):
            return super()._ranged(reference, value, where)
        text = self._string(value, where)
        low, high = INTEGER_RANGES[reference]
        try:
            number = scalars.parse_int64(text)
        except ValueError:
            # Too large for the type, or no integer at all.
            number = self._parsed(scalars.parse_uint64, text, where)
        if not low <= number <= high:
            self._expects(self._own(where), f"{reference}_t")
        return number

    def _index(self, index: int) -> str:
        return f".{index}"

    @staticmethod
    def _is_typed(value: Any) -> bool:
        return isinstance(value, int | float | None)

    def _parsed(self, parse: Callable[[str], T], value: Any, where: Where) -> T:
        try:
            return parse(self._string(value, where))
        except ValueError as error:
            self._expects(self._full(where), str(error))


def _end_of_key(text: str) -> int:
    """Where `=`, `,` or the end of the text is."""
    return next((index for index, character in enumerate(text) if character in "=,"), len(text))


def _parse_one(values: dict[str, Any], text: str, end: int) -> str:
    """Store the first `key=value` of `text`; what follows it."""
    key = text[:end]
    _check_key(key)
    if text[end : end + 1] != "=":
        raise GenericError(f"Expected '=' after parameter '{key}'")
    value: list[str] = []
    rest = text[end + 1 :]
    while True:
        part, comma, rest = rest.partition(",")
        value.append(part)
        if not comma or not rest.startswith(","):
            break
        value.append(",")
        rest = rest[1:]
    _put_path(values, key, "".join(value))
    return rest


def _check_key(key: str) -> None:
    """Refuse a key that is no path of names and indexes."""
    position = 0
    while True:
        length = _index_length(key, position) if position else 0
        length = length or _name_length(key, position)
        end = position + length
        if not length or (end < len(key) and key[end] != "."):
            raise GenericError(f"Invalid parameter '{key}'")
        if length > MAX_FRAGMENT:
            whole = position == 0 and end == len(key)
            raise GenericError(f"Parameter{'' if whole else ' fragment'} '{key[position:end]}' is too long")
        if end == len(key):
            return
        position = end + 1


def _fragments(key: str) -> list[tuple[str, int]]:
    """The fragments of a key, each with the place where it ends."""
    fragments: list[tuple[str, int]] = []
    position = 0
    while position <= len(key):
        length = (_index_length(key, position) if position else 0) or _name_length(key, position)
        fragments.append((key[position : position + length], position + length))
        position += length + 1
    return fragments


def _put_path(values: dict[str, Any], key: str, value: str) -> None:
    current = values
    *inner, (last, _) = _fragments(key)
    for fragment, end in inner:
        current = current.setdefault(fragment, {})
        if not isinstance(current, dict):
            raise GenericError(f"Parameters '{key[:end]}.*' used inconsistently")
    if isinstance(current.get(last), dict):
        raise GenericError(f"Parameters '{key}.*' used inconsistently")
    current[last] = value


def _index_length(text: str, start: int) -> int:
    end = start
    while end < len(text) and "0" <= text[end] <= "9":
        end += 1
    return end - start


def _name_length(text: str, start: int) -> int:
    """The length of the QAPI name that begins at `start`, 0 if none does."""
    end = start
    if text.startswith("_", end):
        if not text.startswith("__", end):
            return 0
        end += 2
        while end < len(text) and _is_letter_or_digit(text[end], "-."):
            end += 1
        if text[end : end + 1] != "_":
            return 0
        end += 1
    if not (text[end : end + 1].isascii() and text[end : end + 1].isalpha()):
        return 0
    while end < len(text) and _is_letter_or_digit(text[end], "-_"):
        end += 1
    return end - start


def _is_letter_or_digit(character: str, others: str) -> bool:
    return (character.isascii() and character.isalnum()) or character in others


def _listify(current: dict[str, Any], path: str) -> dict[str, Any] | list[Any]:
    """Replace dicts whose keys are all indexes by lists, the innermost first."""
    indexes = [key for key in current if "0" <= key[0] <= "9"]
    for key, value in current.items():
        if isinstance(value, dict):
            current[key] = _listify(value, f"{path}{key}.")
    if not indexes:
        return current
    if len(indexes) < len(current):
        raise GenericError(f"Parameters '{path}*' used inconsistently")
    elements = {min(int(key[:20]), _MAX_INDEX): value for key, value in current.items()}
    for index in range(max(elements) + 1):
        if index not in elements:
            raise GenericError(f"Parameter '{path}{index}' missing")
    return [elements[index] for index in range(len(elements))]

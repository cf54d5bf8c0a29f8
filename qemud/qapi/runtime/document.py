"""Documents of a type of the schema, in JSON or TOML, and errors that say where.

document = read_document("scenario.toml")
scenario = document.typed("DoubleScenario")
raise document.error(("rules", 0), "…")        # scenario.toml:7: rules[0]: …
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, NoReturn

from qemud.qapi.runtime.check import checker
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.exact import ExactVisitor
from qemud.qapi.runtime.positions import json_lines, line_of, toml_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.qapi.runtime.exact import Where
    from qemud.qapi.runtime.positions import Path as Place
    from qemud.qapi.runtime.shapes import ObjectShape


LONGEST = 1 << 24
"""Bytes that a document has at most."""

_TOO_MANY_DIGITS = "an integer has more than 4300 digits"


class DocumentError(GenericError):
    """What is wrong with a document: `FILE:LINE: what`, in one line whatever is in the document."""

    def __init__(self, text: str) -> None:
        super().__init__(
            "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
        )


class Document:
    """A parsed document: its `value`, and where everything in it stands."""

    def __init__(self, name: str, value: Any, scan: Callable[[], dict[Place, int]]) -> None:
        self.name = name
        self.value = value
        self._scan = scan  # the lines, when there is an error to tell of

    def typed(self, type_name: str) -> Any:
        """The value as one of a type of the schema.  DocumentError: it is none."""
        return self.check(type_name, self.value, ())

    def check(self, type_name: str, value: Any, place: Place) -> Any:
        """A part of the document, which stands at `place`, as a value of a type.  DocumentError: it is none."""
        where: Where = None
        for name in place:
            where = where, name
        visitor = _Visitor(checker, checker.defined)
        try:
            return checker.parse_exactly(type_name, value, visitor, where)
        except _At as error:
            raise DocumentError(f"{self.name}:{line_of(self._scan(), error.place)}: {error}") from None

    def error(self, place: Place, text: str) -> DocumentError:
        """An error about the value at `place`."""
        return DocumentError(f"{self.name}:{line_of(self._scan(), place)}: {path_text(place)}: {text}")


def read_bounded(path: str, limit: int) -> bytes:
    """The content of a file, or of a pipe that somebody writes to; one that nobody writes to is empty.

    OSError: it cannot be read, or there are more than `limit` bytes.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(fd, True)
    with open(fd, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"longer than {limit} bytes")
    return content


def path_text(place: Place) -> str:
    """A path as error texts have it: `rules[0].steps`."""
    text = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in place)
    return text.removeprefix(".")


def read_document(path: str) -> Document:
    """Read a document: TOML if the file's name says so, else JSON.  DocumentError: it cannot be read."""
    try:
        text = read_bounded(path, LONGEST).decode()
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (OSError, ValueError) as error:
        raise DocumentError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return (_read_toml if path.endswith(".toml") else _read_json)(path, text)


def _read_json(path: str, text: str) -> Document:
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            names = [name for name, _ in pairs]
            again = next(name for name in names if names.count(name) > 1)
            raise DocumentError(f"{path}: the member '{again}' is there twice")
        return members

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DocumentError(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from None
    except RecursionError:
        raise DocumentError(f"{path}: nested too deeply") from None
    except ValueError:  # Python's limit of 4300 digits
        raise DocumentError(f"{path}: {_TOO_MANY_DIGITS}") from None
    if "\\u" in text:
        _check_characters(path, text, value)
    return Document(path, value, lambda: json_lines(text))


def _check_characters(path: str, text: str, value: Any) -> None:
    """Half a surrogate pair, which JSON can write and nothing can mean, is refused as on the wire."""
    import json

    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        escape = f"\\u{ord(error.object[error.start]):04x}"
        line = text.count("\n", 0, max(text.lower().find(escape), 0)) + 1
        raise DocumentError(f"{path}:{line}: {escape} is not a valid Unicode character") from None


def _read_toml(path: str, text: str) -> Document:
    import re
    import tomllib

    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error))
        where, what = (f":{found[2]}:{found[3]}", found[1]) if found else ("", str(error))
        raise DocumentError(f"{path}{where}: {what}") from None
    except RecursionError:
        raise DocumentError(f"{path}: nested too deeply") from None
    except ValueError:  # Python's limit of 4300 digits
        raise DocumentError(f"{path}: {_TOO_MANY_DIGITS}") from None
    return Document(path, value, lambda: toml_lines(text))


class _At(GenericError):
    """An error with the place it is about."""

    def __init__(self, text: str, place: Place) -> None:
        super().__init__(text)
        self.place = place


class _Visitor(ExactVisitor):
    """The exact check, whose errors say where, with whole paths throughout."""

    def visit(self, reference: str, value: Any, where: Where) -> Any:
        try:
            return super().visit(reference, value, where)
        except _At:
            raise
        except GenericError as error:
            raise _At(str(error), _place(where)) from None

    def _object(self, reference: str, shape: ObjectShape, value: Any, where: Where) -> Any:
        if shape.class_name:
            return super()._object(reference, shape, value, where)
        # The data of an event, which have no class.
        if type(value) is not dict:
            self._wrong_type(where, "object")
        members: dict[str, Any] = {}
        seen: set[str] = set()
        self._members(shape, value, where, members, seen)
        self._check_unseen(value, seen, where)
        return members

    def _own(self, where: Where) -> str:
        return self._full(where)

    def _unexpected(self, where: Where) -> NoReturn:
        raise _At(f"Parameter '{self._full(where)}' is unexpected", _place(where))


def _place(where: Where) -> Place:
    names: list[str | int] = []
    while where is not None:
        where, name = where
        names.append(name)
    return tuple(reversed(names))

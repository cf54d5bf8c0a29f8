"""From files to expressions: the grammar, the directives `include` and `pragma`, and documentation comments.

`parse(path)` reads a schema file and all it includes.  What comes back is still JSON-like: `qemud.qapi.expressions` checks
its shape.  Files are read once; the same file included again is passed over, and one that includes itself is an error.

Source: QEMU 10.0, docs/devel/qapi-code-gen, "Schema syntax", "Include directives", "Pragma directives".
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

from qemud.qapi.diagnostics import SchemaError
from qemud.qapi.docs import DocComment, DocReader
from qemud.qapi.lexer import Lexer
from qemud.qapi.model import Info

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud.qapi.lexer import Token, TokenKind

Value: TypeAlias = "dict[str, Value] | list[Value] | str | bool | int | float | None"

# No schema comes near these; they keep hostile ones from exhausting the stack or memory.
MAX_NESTING = 100
MAX_INCLUDE_DEPTH = 50
MAX_FILE_SIZE = 16 << 20

# Keys whose value may be any JSON value: this project's extensions.
_LITERAL_KEYS = frozenset({"default", "version"})


@dataclass(slots=True)
class Pragmas:
    """The pragmas; their scope is the whole schema, wherever they are set."""

    doc_required: bool = False
    command_name_exceptions: frozenset[str] = frozenset()
    command_returns_exceptions: frozenset[str] = frozenset()
    documentation_exceptions: frozenset[str] = frozenset()
    member_name_exceptions: frozenset[str] = frozenset()
    qom_name_exceptions: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Expression:
    """A top-level object that is no directive, and the documentation comment before it."""

    value: dict[str, Value]
    info: Info
    doc: DocComment | None


@dataclass(slots=True)
class SourceFile:
    """A file of the schema and its free-form comments; `path` is as it was opened, `included` where."""

    path: str
    included: Info | None = None
    free_docs: list[DocComment] = field(default_factory=list)


@dataclass(slots=True)
class ParsedSchema:
    """Everything read: files in the order of first inclusion, expressions and comments in the order of the text."""

    files: list[SourceFile] = field(default_factory=list)
    expressions: list[Expression] = field(default_factory=list)
    docs: list[DocComment] = field(default_factory=list)
    pragmas: Pragmas = field(default_factory=Pragmas)


def parse(path: str) -> ParsedSchema:
    """The schema whose root file is `path`, with everything it includes.

    Raises `SchemaError` for what cannot be read or is against the grammar.
    """
    parsed = ParsedSchema()
    try:
        source = _read(path, None)
    except OSError as error:
        raise SchemaError(f"can't read schema file '{path}': {error.strerror}") from error
    _FileParser(parsed, path, source, None, {os.path.abspath(path)}).run()
    return parsed


def parse_value(text: str) -> Value:
    """The one JSON-like value that `text` holds (comments apart), for tools and tests; `SchemaError` otherwise."""
    return _FileParser(ParsedSchema(), "<value>", text, None, set()).single_value()


def _read(path: str, parent: Info | None) -> str:
    """The text of a file, with every kind of line end made a newline.  `OSError` when it cannot be read."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except ValueError as error:  # an embedded NUL
        raise OSError(0, "Invalid file name") from error
    if len(content) > MAX_FILE_SIZE:
        raise OSError(0, f"File is larger than {MAX_FILE_SIZE} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        byte = content[error.start]
        raise SchemaError(
            f"invalid UTF-8 byte 0x{byte:02x}", Info(path, line, parent), column=column
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _FileParser:
    """Parses one file into `parsed`; `seen` are the absolute names of all files read so far."""

    def __init__(
        self, parsed: ParsedSchema, path: str, source: str, parent: Info | None, seen: set[str]
    ) -> None:
        self._parsed = parsed
        self._path = path
        self._seen = seen
        self._lexer = Lexer(source, path, parent)
        self._file = SourceFile(path, parent)
        self._nesting = 0
        parsed.files.append(self._file)
        self._token: Token = self._lexer.next()

    def run(self) -> None:
        """Read the file to its end."""
        doc: DocComment | None = None
        while self._token.kind != "end":
            if self._token.kind == "comment":
                self._reject_definition_doc(doc)
                doc = DocReader(self._lexer, self._token).read()
                self._advance()
                doc.end()
                self._parsed.docs.append(doc)
                if doc.symbol is None:
                    self._file.free_docs.append(doc)
                continue
            info = self._lexer.info(self._token)
            value = self._value()
            if not isinstance(value, dict):
                raise SchemaError("top-level expression must be an object", info)
            if "include" in value:
                self._reject_definition_doc(doc)
                self._include(value, info)
            elif "pragma" in value:
                self._reject_definition_doc(doc)
                self._pragma(value, info)
            else:
                if doc is not None and doc.symbol is None:
                    raise SchemaError("definition documentation required", doc.info)
                self._parsed.expressions.append(Expression(value, info, doc))
            doc = None
        self._reject_definition_doc(doc)

    def single_value(self) -> Value:
        """The one value in the text."""
        value = self._value()
        if self._token.kind != "end":
            raise self._error("expected end of input")
        return value

    # The grammar.

    def _advance(self, *, literals: bool = False) -> None:
        self._token = self._lexer.next(literals=literals)

    def _at(self, *kinds: TokenKind) -> bool:
        return self._token.kind in kinds

    def _error(self, text: str) -> SchemaError:
        return self._lexer.error(self._token, text)

    def _value(self, *, literals: bool = False) -> Value:
        token = self._token
        if token.kind in "{[":
            self._nesting += 1
            if self._nesting > MAX_NESTING:
                raise self._error(f"expression is nested more than {MAX_NESTING} deep")
            value: Value = (
                self._object(literals=literals) if token.kind == "{" else self._array(literals=literals)
            )
            self._nesting -= 1
            return value
        if token.kind in {"string", "literal"}:
            self._advance()
            return token.value
        raise self._error("expected '{', '[', string, or boolean")

    def _object(self, *, literals: bool) -> dict[str, Value]:
        members: dict[str, Value] = {}
        self._advance()
        if self._at("}"):
            self._advance()
            return members
        if not self._at("string"):
            raise self._error("expected string or '}'")
        while True:
            key = self._token.value
            assert isinstance(key, str)
            self._advance()
            if not self._at(":"):
                raise self._error("expected ':'")
            extended = literals or key in _LITERAL_KEYS
            self._advance(literals=extended)
            if key in members:
                raise self._error(f"duplicate key '{key}'")
            members[key] = self._value(literals=extended)
            if self._at("}"):
                self._advance()
                return members
            if not self._at(","):
                raise self._error("expected ',' or '}'")
            self._advance()
            if not self._at("string"):
                raise self._error("expected string")

    def _array(self, *, literals: bool) -> list[Value]:
        values: list[Value] = []
        self._advance(literals=literals)
        if self._at("]"):
            self._advance()
            return values
        if not self._at("{", "[", "string", "literal"):
            raise self._error("expected '{', '[', ']', string, or boolean")
        while True:
            values.append(self._value(literals=literals))
            if self._at("]"):
                self._advance()
                return values
            if not self._at(","):
                raise self._error("expected ',' or ']'")
            self._advance(literals=literals)

    # Directives.

    @staticmethod
    def _reject_definition_doc(doc: DocComment | None) -> None:
        if doc is not None and doc.symbol is not None:
            raise SchemaError(f"documentation for '{doc.symbol}' is not followed by the definition", doc.info)

    def _include(self, value: dict[str, Value], info: Info) -> None:
        if len(value) != 1:
            raise SchemaError("invalid 'include' directive", info)
        include = value["include"]
        if not isinstance(include, str):
            raise SchemaError("value of 'include' must be a string", info)
        path = os.path.join(os.path.dirname(self._path), include)
        absolute = os.path.abspath(path)
        depth = 0
        ancestor: Info | None = info
        while ancestor is not None:
            if absolute == os.path.abspath(ancestor.file):
                raise SchemaError(f"inclusion loop for {include}", info)
            ancestor = ancestor.parent
            depth += 1
        if absolute in self._seen:
            return
        if depth > MAX_INCLUDE_DEPTH:
            raise SchemaError(f"files are included more than {MAX_INCLUDE_DEPTH} deep", info)
        self._seen.add(absolute)
        try:
            source = _read(path, info)
        except OSError as error:
            raise SchemaError(f"can't read include file '{path}': {error.strerror}", info) from error
        _FileParser(self._parsed, path, source, info, self._seen).run()

    def _pragma(self, value: dict[str, Value], info: Info) -> None:
        if len(value) != 1:
            raise SchemaError("invalid 'pragma' directive", info)
        pragma = value["pragma"]
        if not isinstance(pragma, dict):
            raise SchemaError("value of 'pragma' must be an object", info)
        pragmas = self._parsed.pragmas
        for name, setting in pragma.items():
            match name:
                case "doc-required":
                    if not isinstance(setting, bool):
                        raise SchemaError("pragma 'doc-required' must be boolean", info)
                    pragmas.doc_required = setting
                case "command-name-exceptions":
                    pragmas.command_name_exceptions = _names(name, setting, info)
                case "command-returns-exceptions":
                    pragmas.command_returns_exceptions = _names(name, setting, info)
                case "documentation-exceptions":
                    pragmas.documentation_exceptions = _names(name, setting, info)
                case "member-name-exceptions":
                    pragmas.member_name_exceptions = _names(name, setting, info)
                case "qom-name-exceptions":
                    # Unlike QEMU's lists this one adds up, so that each module can name its own types.
                    pragmas.qom_name_exceptions.update(_names(name, setting, info))
                case _:
                    raise SchemaError(f"unknown pragma '{name}'", info)


def _names(pragma: str, setting: Value, info: Info) -> frozenset[str]:
    if not isinstance(setting, list) or not all(isinstance(name, str) for name in setting):
        raise SchemaError(f"pragma {pragma} must be a list of strings", info)
    return frozenset(cast("Iterable[str]", setting))

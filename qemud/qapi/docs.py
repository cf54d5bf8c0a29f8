"""Documentation comments: the `##` blocks, parsed, and checked against the definition they stand on.

`DocReader` reads one block off the lexer.  The expression checker then asks `DocComment` whether it suits the kind of
definition, the analyser connects every member and feature to its description, and `finish()` complains of descriptions
that nothing was connected to.  `to_model()` is what generators get.

Source: QEMU 10.0, docs/devel/qapi-code-gen, "Documentation comments".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from qemud.qapi.diagnostics import SchemaError, Site
from qemud.qapi.model import Doc

if TYPE_CHECKING:
    from qemud.qapi.lexer import Lexer, Token
    from qemud.qapi.model import Info

SectionKind: TypeAlias = Literal["Plain", "Member", "Feature", "Returns", "Errors", "Since", "Todo"]

_TAGS: dict[str, SectionKind] = {"Returns": "Returns", "Errors": "Errors", "Since": "Since", "TODO": "Todo"}
_TAG = re.compile(r"(Returns|Errors|Since|Notes?|Examples?|TODO)(?!::): *")
_AT_NAME = re.compile(r"@([^:]*): *")
_INDENT = re.compile(r"\s*")


@dataclass(slots=True)
class Section:
    """A piece of a documentation comment; `info` is the line it starts at."""

    kind: SectionKind
    info: Info
    lines: list[str] = field(default_factory=list)
    connected: bool = False  # a member or feature of the definition answers to it

    @property
    def text(self) -> str:
        """The text without its tag and without blank lines around it."""
        return "\n".join(self.lines).strip("\n")


class DocComment:
    """A documentation comment; `symbol` is the definition it is for, None when it is free-form."""

    def __init__(self, info: Info, symbol: str | None = None) -> None:
        self.info = info
        self.symbol = symbol
        self.sections: list[Section] = [Section("Plain", info)]
        self.members: dict[str, Section] = {}
        self.features: dict[str, Section] = {}

    def add_line(self, line: str) -> None:
        """Append a line to the section at hand."""
        self.sections[-1].lines.append(line)

    def begin_plain(self, info: Info) -> None:
        """Go on with the plain section at hand after a blank line, or start one."""
        if self.sections[-1].kind == "Plain":
            self.add_line("")
        else:
            self.sections.append(Section("Plain", info))

    def begin_tagged(self, info: Info, kind: SectionKind) -> None:
        """Start a tagged section; all but TODO may be there once."""
        if kind != "Todo" and self.tagged(kind):
            raise SchemaError(f"duplicated '{kind}' section", info)
        self.sections.append(Section(kind, info))

    def begin_description(self, info: Info, kind: Literal["Member", "Feature"], name: str) -> None:
        """Start the description of a member or feature."""
        described = self.members if kind == "Member" else self.features
        if not name:
            raise SchemaError("invalid parameter name", info)
        if name in described:
            raise SchemaError(f"'{name}' parameter name duplicated", info)
        section = Section(kind, info)
        self.sections.append(section)
        described[name] = section

    def end(self) -> None:
        """The comment was read to its end: no tag and no description may be without text."""
        for section in self.sections:
            if section.kind != "Plain" and not section.text:
                raise SchemaError(f"text required after '{section.kind}:'", section.info)

    def tagged(self, kind: SectionKind) -> Section | None:
        """The first section of the kind."""
        return next((section for section in self.sections if section.kind == kind), None)

    def check_kind(self, kind: str, *, returns: bool) -> None:
        """Complain of sections that a definition of this `kind` cannot have; `returns`: it returns something."""
        returns_section = self.tagged("Returns")
        errors_section = self.tagged("Errors")
        if kind == "command":
            if returns_section and not returns:
                raise SchemaError(
                    "'Returns' section, but command doesn't return anything", returns_section.info
                )
            return
        if returns_section:
            raise SchemaError("'Returns' section is only valid for commands", returns_section.info)
        if errors_section:
            raise SchemaError("'Errors' section is only valid for commands", errors_section.info)

    def connect_member(self, role: str, name: str, site: Site, *, required: bool) -> None:
        """The definition has a member (`role` says what it calls it): its description must be there, if `required`."""
        if name in self.members:
            self.members[name].connected = True
        elif required:
            raise SchemaError.at(site, f"{role} '{name}' lacks documentation")

    def connect_feature(self, name: str, site: Site) -> None:
        """The definition has a feature, here or on a member: its description must be there."""
        if name not in self.features:
            raise SchemaError.at(site, f"feature '{name}' lacks documentation")
        self.features[name].connected = True

    def finish(self) -> None:
        """Complain of descriptions of what does not exist."""
        for described, what in ((self.members, "member"), (self.features, "feature")):
            bogus = [name for name, section in described.items() if not section.connected]
            if bogus:
                plural = len(bogus) > 1
                names = "', '".join(bogus)
                raise SchemaError(
                    f"documented {what}{'s' if plural else ''} '{names}' {'do' if plural else 'does'} not exist",
                    described[bogus[0]].info,
                )

    def to_model(self) -> Doc:
        """The comment as generators see it; TODO sections are for the schema's authors and left out."""

        def tagged_text(kind: SectionKind) -> str:
            section = self.tagged(kind)
            return section.text if section else ""

        return Doc(
            body=self.sections[0].text,
            members={name: section.text for name, section in self.members.items()},
            features={name: section.text for name, section in self.features.items()},
            returns=tagged_text("Returns"),
            errors=tagged_text("Errors"),
            since=tagged_text("Since"),
            details=[section.text for section in self.sections[1:] if section.kind == "Plain"],
        )


class DocReader:
    """Reads one documentation comment, whose first `##` is `token`."""

    def __init__(self, lexer: Lexer, token: Token) -> None:
        self._lexer = lexer
        self._token = token

    def read(self) -> DocComment:
        """The comment; the lexer then stands behind its closing `##`.

        The caller says `end()` to it once it has the next token, for an error in that comes first.
        """
        if self._token.value != "##":
            raise self._error("junk after '##' at start of documentation comment")
        info = self._lexer.info(self._token)
        line = self._next_line()
        if line is not None and line.startswith("@"):
            return self._definition(info, line)
        return self._free(info, line)

    def _error(self, text: str) -> SchemaError:
        return self._lexer.error(self._token, text)

    def _info(self) -> Info:
        return self._lexer.info(self._token)

    def _next_line(self) -> str | None:
        """The next line without its `# `; None for the closing `##`."""
        self._token = self._lexer.next(comments=True)
        value = self._token.value
        if self._token.kind != "comment":
            raise self._error("documentation comment must end with '##'")
        assert isinstance(value, str)
        if value.startswith("##"):
            if value != "##":
                raise self._error("junk after '##' at end of documentation comment")
            return None
        if value == "#":
            return ""
        if value[1] != " ":
            raise self._error("missing space after #")
        return value[2:].rstrip()

    def _next_text(self) -> str | None:
        """The next line that is not blank."""
        line = self._next_line()
        while line == "":
            line = self._next_line()
        return line

    def _free(self, info: Info, line: str | None) -> DocComment:
        doc = DocComment(info)
        first = True
        while line is not None:
            name = _AT_NAME.match(line)
            if name:
                raise self._error(f"'@{name.group(1)}:' not allowed in free-form documentation")
            if line.startswith("=") and not first:
                raise self._error("'=' heading must come first in a comment block")
            doc.add_line(line)
            line = self._next_line()
            first = False
        return doc

    def _definition(self, info: Info, line: str) -> DocComment:
        if not line.endswith(":"):
            raise self._error("line should end with ':'")
        symbol = line[1:-1]
        if not symbol:
            raise self._error("name required after '@'")
        doc = DocComment(info, symbol)
        members_done = False
        text = self._next_text()
        while text is not None:
            name = _AT_NAME.match(text)
            tag = _TAG.match(text)
            if text == "Features:":
                if doc.features:
                    raise self._error("duplicated 'Features:' line")
                text = self._descriptions(doc, "Feature", self._next_text())
                if not doc.features:
                    raise self._error("feature descriptions expected")
                members_done = True
            elif name:
                if members_done:
                    raise self._error(f"description of '@{name.group(1)}:' follows a section")
                text = self._descriptions(doc, "Member", text)
                members_done = True
            elif tag:
                doc.begin_tagged(self._info(), self._tag_kind(tag.group(1)))
                text = self._section_text(doc, text[tag.end() :])
                members_done = True
            elif text.startswith("="):
                raise self._error("unexpected '=' markup in definition documentation")
            else:
                doc.begin_plain(self._info())
                text = self._paragraph(doc, text)
            if text == "":
                text = self._next_text()
        return doc

    def _tag_kind(self, tag: str) -> SectionKind:
        if tag.startswith("Note"):
            raise self._error(
                f"The '{tag}' section is no longer supported. Please use rST's '.. note::' or "
                "'.. admonition:: notes' directives, or another suitable admonition instead."
            )
        if tag.startswith("Example"):
            raise self._error(
                f"The '{tag}' section is no longer supported. Please use the '.. qmp-example::' "
                "directive, or other suitable markup instead."
            )
        return _TAGS[tag]

    def _descriptions(
        self, doc: DocComment, kind: Literal["Member", "Feature"], line: str | None
    ) -> str | None:
        """Consecutive `@name:` descriptions; the line behind them."""
        while line is not None:
            match = _AT_NAME.match(line)
            if not match:
                break
            doc.begin_description(self._info(), kind, match.group(1))
            line = self._section_text(doc, line[match.end() :])
        return line

    def _section_text(self, doc: DocComment, first: str) -> str | None:
        """The text of a tagged section or description: `first`, then indented lines; the line behind them."""
        if first:
            doc.add_line(first)
        line = self._next_line()
        while line == "":
            doc.add_line(line)
            line = self._next_line()
        if line is None:
            return None
        indent = _leading_blanks(line)
        if not indent:
            return line
        doc.add_line(line)
        second = True
        while True:
            line = self._next_line()
            if line is None or _AT_NAME.match(line):
                return line
            if line and _leading_blanks(line) < indent:
                # Only the line right behind the first one is judged; later ones start something new.
                if second:
                    raise self._error(f"unexpected de-indent (expected at least {indent} spaces)")
                return line
            doc.add_line(line)
            second = False

    def _paragraph(self, doc: DocComment, line: str | None) -> str | None:
        while line:
            doc.add_line(line)
            line = self._next_line()
        return line


def _leading_blanks(line: str) -> int:
    match = _INDENT.match(line)
    assert match
    return match.end()

"""What the schema compiler says when it refuses: one diagnostic, complete, in the shape of QEMU's own front end.

    In file included from qapi-schema.json:12:
    run-state.json: In command 'stop':
    run-state.json:40: 'data' should be an object or type name

Lexical and syntax errors add the column (`run-state.json:40:7: stray '&'`) and know no definition.  The compiler stops
at the first error, so a caller only ever prints `str(error)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemud.qapi.model import Info


@dataclass(frozen=True, slots=True)
class Site:
    """The definition a diagnostic is about: where it starts, what it is (`struct`, `command` …) and its name."""

    info: Info
    kind: str
    name: str


class SchemaError(Exception):
    """The first thing that is wrong with a schema; `str()` is the whole diagnostic, without a final newline.

    Attributes: `text` (what is wrong), `info` (where, or None when no file could be read), `column` (from 1, or None)
    and `site` (the definition at hand, or None).
    """

    def __init__(
        self, text: str, info: Info | None = None, *, column: int | None = None, site: Site | None = None
    ) -> None:
        self.text = text
        self.info = info
        self.column = column
        self.site = site
        super().__init__(render(text, info, column, site))

    @classmethod
    def at(cls, site: Site, text: str) -> SchemaError:
        """An error in the definition `site`."""
        return cls(text, site.info, site=site)


def render(text: str, info: Info | None, column: int | None = None, site: Site | None = None) -> str:
    """The diagnostic `text` with the lines and the position that go before it."""
    if info is None:
        return text
    lines: list[str] = []
    parent = info.parent
    while parent is not None:
        lines.insert(0, f"In file included from {parent.file}:{parent.line}:")
        parent = parent.parent
    if site is not None and site.name:
        lines.append(f"{info.file}: In {site.kind} '{site.name}':")
    place = f"{info.file}:{info.line}"
    if column is not None:
        place += f":{column}"
    lines.append(f"{place}: {text}")
    return "\n".join(lines)

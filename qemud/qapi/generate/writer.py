"""Writing generated files: one header, no needless rewrites, nothing stale left behind."""

from __future__ import annotations

import inspect
import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.table import Row

if TYPE_CHECKING:
    from qemud.qapi.model import Doc

COMMAND = "python -m qemud.qapi build"
MANIFEST = ".generated"
"""The file that lists what was generated, so that the next run knows what is stale."""


class Output:
    """A directory of generated files.

    Files are written when their content differs from what is there, so that tools which look at time stamps see no
    change where there was none; `finish` removes what an earlier run wrote and this one did not.
    """

    def __init__(self, root: Path, schema_directory: Path) -> None:
        self.root = root
        self._schema_directory = schema_directory
        self.changed: list[Path] = []
        self._written: set[Path] = set()

    def write(self, relative: str, content: str | bytes) -> None:
        """Make `relative` hold `content`."""
        path = self.root / relative
        data = content.encode() if isinstance(content, str) else content
        self._written.add(path)
        if path.is_file() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.changed.append(path)

    def python(self, relative: str, source: str, docstring: str, body: list[str]) -> None:
        """Make `relative` a Python module generated from the schema file `source`."""
        if source.endswith(".json"):
            # The same text wherever the tree lies and wherever the build runs.
            source = Path(os.path.relpath(source, self._schema_directory.parent)).as_posix()
        lines = [
            f"# Generated from {source} by `{COMMAND}`; edits are lost.",
            f'"""{docstring}"""',
            "",
            *body,
        ]
        self.write(relative, "\n".join(lines).rstrip("\n") + "\n")

    def finish(self) -> None:
        """Remove what an earlier run wrote and this one did not; nothing else in the directory is touched."""
        manifest = self.root / MANIFEST
        names = sorted(path.relative_to(self.root).as_posix() for path in self._written)
        if manifest.is_file():
            for name in set(manifest.read_text().splitlines()) - set(names):
                path = self.root / name
                if path.is_file():
                    path.unlink()
                    self.changed.append(path)
        self.write(MANIFEST, "".join(f"{name}\n" for name in names))


def quoted(text: str) -> str:
    """A string literal, in double quotes as the formatter has them."""
    return json.dumps(text, ensure_ascii=False)


def expression(value: Any) -> str:
    """A row of a table, or what may be in one, as an expression; what has its default is left out."""
    match value:
        case Row():
            arguments = []
            for name, parameter in inspect.signature(type(value)).parameters.items():
                item = getattr(value, name)
                if parameter.default is inspect.Parameter.empty:
                    arguments.append(expression(item))
                elif item != parameter.default:
                    arguments.append(f"{name}={expression(item)}")
            return f"{type(value).__name__}({', '.join(arguments)})"
        case tuple():
            return f"({', '.join(map(expression, value))}{',' if len(value) == 1 else ''})"
        case dict():
            return f"{{{', '.join(f'{quoted(key)}: {expression(item)}' for key, item in value.items())}}}"
        case str():
            return quoted(value)
        case _:
            return repr(value)


def docstring(doc: Doc | None, indent: str, fallback: str) -> list[str]:
    """The first paragraph of a documentation comment as a docstring's lines."""
    paragraph = (doc.body if doc else "").strip().split("\n\n", 1)[0]
    text = " ".join(paragraph.split()) or fallback
    text = text.replace("\\", "\\\\").replace('"""', "'''")
    if text.endswith('"'):
        text += " "
    lines = textwrap.wrap(f'"""{text}', 108 - len(indent), break_long_words=False, break_on_hyphens=False)
    if len(lines) == 1:
        return [f'{indent}{lines[0]}"""']
    return [*(indent + line for line in lines), f'{indent}"""']

"""Cases of schemas in text files, and schemas written to a directory.

A case file holds any number of

    === title
    the text of s.json, the root file
    +++ other.json
    the text of another file
    ---
    the diagnostic that is expected
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CASES = Path(__file__).parent / "diagnostics"
ROOT = "s.json"


@dataclass
class Case:
    title: str
    files: dict[str, str]
    expected: str


def write(directory: Path, files: dict[str, str]) -> None:
    """Put files, given by name and text, into a directory."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def read_cases(path: Path) -> list[Case]:
    """The cases in one file."""
    cases: list[Case] = []
    current = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("=== "):
            current = ROOT
            cases.append(Case(line[4:], {ROOT: ""}, ""))
        elif line.startswith("+++ "):
            current = line[4:]
            cases[-1].files[current] = ""
        elif line == "---":
            current = ""
        elif current:
            cases[-1].files[current] += line + "\n"
        else:
            cases[-1].expected += line + "\n"
    return cases

"""Every diagnostic of the schema compiler: its text, its place, and that none is left out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import qemud.qapi
from qemud.qapi.parser import parse_value
from qemud.qapi.schema import SchemaError, load
from tests.qapi.cases import CASES, ROOT, Case, read_cases, write

FILES = {path.stem: read_cases(path) for path in sorted(CASES.glob("*.txt"))}
FRONT_END = (
    "analysis",
    "clashes",
    "defaults",
    "docs",
    "expressions",
    "lexer",
    "naming",
    "parser",
    "symbols",
)


def refuse(directory: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> SchemaError:
    directory.mkdir()
    write(directory, case.files)
    monkeypatch.chdir(directory)
    with pytest.raises(SchemaError) as caught:
        load(ROOT)
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_diagnostics(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, case in enumerate(FILES[name]):
        error = refuse(tmp_path / str(number), case, monkeypatch)
        assert str(error) + "\n" == case.expected, case.title


def raising_places(error: BaseException | None) -> set[tuple[str, int]]:
    """Where an exception, and what caused it, was raised: (module, line)."""
    places = set()
    while error is not None:
        traceback = error.__traceback__
        assert traceback
        while traceback.tb_next:
            traceback = traceback.tb_next
        places.add((Path(traceback.tb_frame.f_code.co_filename).stem, traceback.tb_lineno))
        error = error.__cause__
    return places


def deep_cases() -> list[Case]:
    """What takes more text than one wants to read."""
    chain = "".join(f"{{ 'struct': 'S{n:03}x', 'base': 'S{n + 1:03}x', 'data': {{}} }}\n" for n in range(60))
    end = "{ 'struct': 'S060x', 'data': {} }\n"
    features = ", ".join(f"'f{n}'" for n in range(63))
    includes = {ROOT: "{ 'include': 'i0.json' }\n"}
    includes |= {f"i{n}.json": f"{{ 'include': 'i{n + 1}.json' }}\n" for n in range(60)}
    members = ", ".join(f"'m{n}': 'int'" for n in range(1000))
    heirs = "".join(f"{{ 'struct': 'S{n}x', 'base': 'Base', 'data': {{}} }}\n" for n in range(1001))
    return [
        Case("members", {ROOT: f"{{ 'struct': 'Base', 'data': {{ {members} }} }}\n{heirs}"}, ""),
        Case("bases from the top", {ROOT: chain + end}, ""),
        Case("bases from the bottom", {ROOT: end + "".join(reversed(chain.splitlines(keepends=True)))}, ""),
        Case("features", {ROOT: f"{{ 'command': 'foo', 'features': [ {features} ] }}\n"}, ""),
        Case("includes", includes, ""),
        Case("nesting", {ROOT: "[" * 101}, ""),
    ]


DEEP_TEXTS = {
    "members": "s.json: In struct 'S1000x':\ns.json:1002: schema has more than 1000000 members, with inherited ones",
    "bases from the top": "s.json: In struct 'S051x':\ns.json:52: object S051x is nested too deep",
    "bases from the bottom": "s.json: In struct 'S009x':\ns.json:52: object S009x is nested too deep",
    "features": "s.json: In command 'foo':\ns.json:1: Maximum of 64 schema features is permitted",
    "nesting": "s.json:1:101: expression is nested more than 100 deep",
}


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in deep_cases():
        error = refuse(tmp_path / case.title, case, monkeypatch)
        if case.title in DEEP_TEXTS:
            assert str(error) == DEEP_TEXTS[case.title]
        else:
            lines = str(error).splitlines()
            assert lines[0] == "In file included from s.json:1:"
            assert lines[-1] == "i49.json:1: files are included more than 50 deep"
            assert len(lines) == 51


def test_just_within_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    condition = "{ 'not': " * 99 + "'A'" + " }" * 99
    bases = "".join(f"{{ 'struct': 'S{n:02}x', 'base': 'S{n + 1:02}x', 'data': {{}} }}\n" for n in range(50))
    files = {ROOT: "{ 'include': 'i0.json' }\n"}
    files |= {f"i{n}.json": f"{{ 'include': 'i{n + 1}.json' }}\n" for n in range(49)}
    files["i49.json"] = (
        f"{bases}{{ 'struct': 'S50x', 'data': {{}} }}\n{{ 'command': 'foo', 'if': {condition} }}\n"
    )
    write(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    schema = load(ROOT)
    assert schema.entities["foo"].condition.evaluate(frozenset())
    assert len(schema.modules) == 51


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("directory").mkdir()
    Path("latin1.json").write_bytes(b"# fine\r\n# \xc3\xbc\xe4\n")
    Path("binary.json").write_bytes(bytes(range(256)))
    Path("control.json").write_bytes(b"{ 'struct': \x1b[2J }")
    Path("escape.json").write_bytes(b"'\\\x1b'")
    Path("nul.json").write_bytes(b"\0")
    with Path("large.json").open("wb") as file:
        file.truncate((16 << 20) + 1)
    texts = {
        "none.json": "can't read schema file 'none.json': No such file or directory",
        "": "can't read schema file '': No such file or directory",
        "loop": "can't read schema file 'loop': Too many levels of symbolic links",
        "directory": "can't read schema file 'directory': Is a directory",
        "a\0b": "can't read schema file 'a\0b': Invalid file name",
        "large.json": "can't read schema file 'large.json': File is larger than 16777216 bytes",
        "latin1.json": "latin1.json:2:4: invalid UTF-8 byte 0xe4",
        "binary.json": "binary.json:3:115: invalid UTF-8 byte 0x80",
        "control.json": "control.json:1:13: stray '\\x1b'",
        "escape.json": "escape.json:1:1: unknown escape \\\\x1b",
        "nul.json": "nul.json:1:1: stray '\\x00'",
    }
    for path, text in texts.items():
        with pytest.raises(SchemaError) as caught:
            load(path)
        assert str(caught.value) == text


def test_an_unreadable_include_tells_the_way_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {ROOT: "\n{ 'include': 'sub/a.json' }\n"})
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_bytes(b"\xff")
    with pytest.raises(SchemaError) as caught:
        load(ROOT)
    assert str(caught.value) == "In file included from s.json:2:\nsub/a.json:1:1: invalid UTF-8 byte 0xff"


def test_every_diagnostic_has_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `raise` of the front end is reached by some case above."""
    reached: set[tuple[str, int]] = set()
    cases = [case for file in FILES.values() for case in file] + deep_cases()
    for number, case in enumerate(cases):
        reached |= raising_places(refuse(tmp_path / str(number), case, monkeypatch))
    with pytest.raises(SchemaError) as caught:
        load(str(tmp_path / "none.json"))
    reached |= raising_places(caught.value)
    with pytest.raises(SchemaError, match="<value>:1:5: expected end of input") as caught:
        parse_value("'a' 'b'")
    reached |= raising_places(caught.value)
    missing = []
    for module in FRONT_END:
        path = Path(qemud.qapi.__file__).with_name(f"{module}.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                if not any((module, line) in reached for line in lines):
                    missing.append(f"{module}.py:{node.lineno}: {ast.unparse(node)}")
    # These need files that are no text; see test_unreadable_files.
    missing = [place for place in missing if "OSError(0" not in place and "invalid UTF-8" not in place]
    assert missing == []

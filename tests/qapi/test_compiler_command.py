"""The compiler's command line, as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOUR = Path(__file__).parent / "schemas" / "tour.json"


def run(*arguments: str | bytes, directory: Path) -> subprocess.CompletedProcess[bytes]:
    repository = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(repository), "LC_ALL": "C.UTF-8"}
    command: list[str | bytes] = [sys.executable, "-m", "qemud.qapi", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True)


def test_check_says_nothing_of_a_valid_schema(tmp_path: Path) -> None:
    result = run("check", str(TOUR), directory=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_check_reports_the_first_error_of_several_schemas(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{ 'include': 'b.json' }\n", encoding="utf-8")
    (tmp_path / "b.json").write_text("\n{ 'command': 'do-it', 'data': 'It' }\n&\n", encoding="utf-8")
    (tmp_path / "c.json").write_text("{ 'command': 'do-it', 'data': 'It' }\n", encoding="utf-8")
    result = run("check", str(TOUR), "b.json", "c.json", directory=tmp_path)
    assert result.stderr == b"b.json:3:1: stray '&'\n"
    result = run("check", "c.json", "b.json", directory=tmp_path)
    assert (
        result.stderr == b"c.json: In command 'do-it':\nc.json:1: command's 'data' uses unknown type 'It'\n"
    )
    result = run("check", "a.json", directory=tmp_path)
    assert result.stderr == b"In file included from a.json:1:\nb.json:3:1: stray '&'\n"
    assert (result.returncode, result.stdout) == (1, b"")


def test_check_of_a_file_with_a_strange_name(tmp_path: Path) -> None:
    result = run("check", b"caf\xe9.json", directory=tmp_path)
    assert result.stderr == b"can't read schema file 'caf\\udce9.json': No such file or directory\n"
    assert result.returncode == 1


def test_check_of_something_that_is_no_text(tmp_path: Path) -> None:
    result = run("check", sys.executable, directory=tmp_path)
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
    assert result.stderr.count(b"\n") == 1


def test_wrong_usage(tmp_path: Path) -> None:
    for arguments in ((), ("check",), ("chek", "s.json")):
        result = run(*arguments, directory=tmp_path)
        assert result.returncode == 2
        assert result.stderr.startswith(b"usage: python -m qemud.qapi")

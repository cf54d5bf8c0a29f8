"""What the build writes: every kind of file, always the same, clean to mypy, and no more often than needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qemud.qapi.generate.build import REPOSITORY, ROOT_SCHEMA, build, build_docs
from qemud.qapi.generate.introspect import introspect
from qemud.qapi.main import main
from qemud.qapi.runtime.table import EARLY
from qemud.qapi.schema import load
from qemud.qapi.targets import TARGETS
from tests.qapi.generated import CONSTRUCTS, import_generated, schema

PACKAGE = "constructs_generated"


def elements(*defined: str) -> dict[str, dict[str, Any]]:
    """The introspection of the test schema, by name (names of commands and events, or numbers of types)."""
    return {element["name"]: element for element in introspect(schema(PACKAGE), frozenset(defined))}


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_same_schema_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(load(CONSTRUCTS), tmp_path / "one")
    monkeypatch.chdir(CONSTRUCTS.parent)
    build(load(CONSTRUCTS.name), tmp_path / "two")
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    for name, content in one.items():
        if name.endswith(".py") and not name.endswith("__init__.py"):
            assert content.startswith(b"# Generated "), name
        assert str(CONSTRUCTS.parent).encode() not in content


def test_files_are_written_only_when_they_change(tmp_path: Path) -> None:
    own = tmp_path / "out" / "types" / "mine.py"
    own.parent.mkdir(parents=True)
    own.write_text("# not generated\n")
    source = tmp_path / "schema.json"
    source.write_text("{ 'struct': 'One', 'data': {} }\n{ 'event': 'AN_EVENT' }\n")
    assert build(load(source), tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.py")}
    assert build(load(source), tmp_path / "out") == []
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.py")}
    source.write_text("{ 'struct': 'Two', 'data': {} }\n")
    changed = {
        path.relative_to(tmp_path / "out").as_posix() for path in build(load(source), tmp_path / "out")
    }
    assert "types/schema.py" in changed
    # What is stale goes, what the build did not write stays.
    assert "events/schema.py" in changed
    assert not (tmp_path / "out" / "events" / "schema.py").exists()
    assert own.read_text() == "# not generated\n"


@pytest.mark.parametrize("root", [CONSTRUCTS, ROOT_SCHEMA], ids=["constructs", "qemud"])
def test_generated_code_is_clean_to_mypy(root: Path, tmp_path: Path) -> None:
    build(load(root), tmp_path / "made")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            f"--cache-dir={tmp_path}/cache",
            "made",
        ],
        cwd=tmp_path,
        env={"MYPYPATH": str(REPOSITORY), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_a_wrong_handler_is_an_error_to_mypy(tmp_path: Path) -> None:
    build(load(CONSTRUCTS), tmp_path / "made")
    (tmp_path / "handlers.py").write_text(
        "from made.commands.first import FirstCommands\n"
        "class Handlers(FirstCommands):\n"
        "    async def first(self, *, union: int, choice: None) -> None: ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}/cache", "handlers.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(REPOSITORY), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "incompatible with supertype" in done.stdout


def test_the_command_table() -> None:
    table = import_generated(PACKAGE, "table")
    everything = table.COMMANDS["take-all"]
    assert (everything.module, everything.method) == ("constructs", "take_all")
    assert (everything.allow_oob, everything.phases, everything.boxed, everything.has_arguments) == (
        True,
        EARLY,
        False,
        True,
    )
    assert table.COMMANDS["start-work"].job
    assert table.COMMANDS["take-scalars"].deprecated
    assert table.COMMANDS["old_style"].unstable
    assert not table.COMMANDS["old_style"].success_response
    assert not table.COMMANDS["unchecked"].gen
    assert not table.COMMANDS["simple"].has_arguments
    assert table.COMMANDS["arm-only"].condition == ("any", "TARGET_ARM", "TARGET_AARCH64")
    assert table.EVENTS["DATA_EVENT"] == "constructs"


def test_introspection_of_commands_and_events() -> None:
    found = elements("TARGET_RISCV64")
    empty = found["simple"]["arg-type"]
    assert found[empty] == {"name": empty, "members": [], "meta-type": "object"}
    assert found["simple"]["ret-type"] == empty
    assert found["take-all"]["allow-oob"] is True
    assert "allow-oob" not in found["simple"]
    assert found["take-scalars"]["features"] == ["deprecated"]
    assert found["get-list"]["ret-type"] == "[int]"
    assert found["[int]"] == {"name": "[int]", "element-type": "int", "meta-type": "array"}
    assert found["int"] == {"name": "int", "json-type": "int", "meta-type": "builtin"}
    assert found["any"]["json-type"] == "value"
    assert found["BARE_EVENT"] == {"name": "BARE_EVENT", "arg-type": empty, "meta-type": "event"}
    assert found["boxed-fast"]["ret-type"] == f"[{found['boxed-fast']['arg-type']}]"


def test_introspection_of_types() -> None:
    found = elements("TARGET_RISCV64")
    arguments = found[found["take-scalars"]["arg-type"]]
    assert arguments["members"] == [
        {"name": "text", "type": "str"},
        {"name": "number", "type": "int", "default": None},
        {"name": "flag", "type": "bool", "default": None},
    ]
    flat = found[found["boxed-fast"]["arg-type"]]
    assert flat["tag"] == "kind"
    assert [member["name"] for member in flat["members"]] == ["common", "kind"]
    assert {variant["case"] for variant in flat["variants"]} == {"a", "b-c", "bare", "other", "far"}
    kinds = found[flat["members"][1]["type"]]
    assert kinds["values"] == ["a", "b-c", "bare", "other", "far"]
    assert kinds["members"] == [{"name": name} for name in kinds["values"]]
    chosen = next(
        member for member in found[found["take-all"]["arg-type"]]["members"] if member["name"] == "chosen"
    )
    text = found[found[chosen["type"]]["members"][0]["type"]]
    assert text == {
        "name": text["name"],
        "meta-type": "alternate",
        "members": [{"type": "str"}, {"type": "null"}],
    }


def test_introspection_follows_the_target_and_hides_names() -> None:
    riscv, arm = elements("TARGET_RISCV64"), elements("TARGET_ARM")
    assert "riscv-only" in riscv
    assert "riscv-only" not in arm
    assert "ARM_EVENT" in arm
    assert "ARM_EVENT" not in riscv
    colours = next(element for element in riscv.values() if "red" in element.get("values", ()))
    assert colours["values"] == ["red", "dark-blue", "2-tone", "from", "only-riscv"]
    assert colours["members"][1] == {"name": "dark-blue", "features": ["deprecated"]}
    assert colours["features"] == ["savour"]
    # A type has the same number whatever the target.
    assert colours["name"] in arm
    assert "only-riscv" not in arm[colours["name"]]["values"]
    names = {
        element["name"]
        for element in riscv.values()
        if element["meta-type"] in {"object", "enum", "alternate"}
    }
    assert all(name.isdigit() for name in names)
    # Used by nothing on the wire.
    assert not any(
        "count" in str(element.get("members")) and "history" in str(element) for element in riscv.values()
    )


def test_introspection_is_closed() -> None:
    """Every type that is named is there, and only what is used."""
    for package in (PACKAGE, "qemud_generated"):
        found = introspect(schema(package), TARGETS["riscv64"])
        names = [element["name"] for element in found]
        assert len(set(names)) == len(names)
        used: set[str] = set()
        for element in found:
            used |= {element[key] for key in ("arg-type", "ret-type", "element-type") if key in element}
            if element["meta-type"] in {"object", "alternate"}:
                used |= {member["type"] for member in element["members"]}
                used |= {variant["type"] for variant in element.get("variants", ())}
        types = {element["name"] for element in found if element["meta-type"] not in {"command", "event"}}
        assert used == types


def test_ready_bytes() -> None:
    from qemud import _generated

    text = (Path(_generated.__path__[0]) / "introspection-riscv64.json").read_bytes()
    assert text.isascii()
    assert b"\n" not in text
    assert json.loads(text) == introspect(load(ROOT_SCHEMA), TARGETS["riscv64"])


def test_reference_pages(tmp_path: Path) -> None:
    build_docs(load(CONSTRUCTS), tmp_path)
    page = (tmp_path / "constructs.md").read_text()
    assert '<a id="command-take-scalars"></a>\n## Command `take-scalars`\n\nTake one of each.\n' in page
    assert "- `text`: `str` — a text, described over two lines\n" in page
    assert "- `number`: `int` (optional) — a number\n" in page
    assert "- `flag`: `bool` (default: `true`) — a flag\n" in page
    assert "**Returns** [`Required`](constructs.md#struct-Required): what was taken\n" in page
    assert "- `deprecated` — use `simple` instead\n" in page
    assert "DeviceNotFound" in page
    assert "- `only-riscv` [if `TARGET_RISCV64`] — conditional\n" in page
    assert "- `dark-blue` [*deprecated*] — with a hyphen\n" in page
    assert "- when `kind` is `b-c`: the members of [`FlatB`](constructs.md#struct-FlatB)\n" in page
    assert "saved state, version 3" in page
    index = (tmp_path / "index.md").read_text()
    assert "[`take-scalars`](constructs.md#command-take-scalars)" in index
    anchors = {
        line[7:-6]
        for path in tmp_path.glob("*.md")
        for line in path.read_text().splitlines()
        if line.startswith("<a id=")
    }
    for path in tmp_path.glob("*.md"):
        for part in path.read_text().split("](")[1:]:
            target = part.partition(")")[0]
            name, _, anchor = target.partition("#")
            assert (tmp_path / name).is_file()
            assert not anchor or anchor in anchors


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--schema", str(CONSTRUCTS), "--out", str(tmp_path / "out")]) == 0
    assert "files changed" in capsys.readouterr().out
    assert main(["build", "--schema", str(CONSTRUCTS), "--docs", str(tmp_path / "docs")]) == 0
    assert not (tmp_path / "docs" / "table.py").exists()
    capsys.readouterr()
    (tmp_path / "file").write_text("")
    assert main(["build", "--schema", str(CONSTRUCTS), "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.startswith("build: cannot write ")
    (tmp_path / "bad.json").write_text("{ 'command': 1 }")
    assert main(["build", "--schema", str(tmp_path / "bad.json"), "--out", str(tmp_path / "out")]) == 1
    assert "bad.json:1" in capsys.readouterr().err


def test_the_build_needs_nothing_but_python(tmp_path: Path) -> None:
    """pip builds in an environment of its own, where no run-time dependency is."""
    program = (
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from qemud.qapi.generate.build import build_project\n"
        f"assert build_project(out=Path({str(tmp_path)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert (tmp_path / "table.py").is_file()

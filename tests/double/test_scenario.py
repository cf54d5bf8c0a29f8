"""Scenario files: their schema, and errors that name path and line."""

from __future__ import annotations

import json
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.double.run import main, scenario_schema
from qemud.double.scenario import DEFAULTS, load
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.positions import json_lines, toml_lines
from tests.double.support import QEMUD

if TYPE_CHECKING:
    from pathlib import Path

WRONG = [
    (
        '{\n "rules": [\n  {"command": "stop",\n   "steps": [{"step": "reply"},\n    {"step": "jump"}]}]}',
        "scenario.json:5: Parameter 'rules[0].steps[1].step' does not accept value 'jump'",
    ),
    (
        '{"rules":\n [{"command": "stop",\n "stepps": []}]}',
        "scenario.json:2: Parameter 'rules[0].steps' is missing",
    ),
    (
        '{"rules":\n [{"command": "stop", "steps": [],\n "often": 1}]}',
        "scenario.json:3: Parameter 'rules[0].often' is unexpected",
    ),
    (
        '{"answers": [\n\n{"command": "query-name",\n "return": {"name": 5}}]}',
        "scenario.json:4: Invalid parameter type for 'answers[0].return.name', expected: string",
    ),
    (
        (
            '{"rules": [{"command": "stop", "steps": [\n{"step": "event", "event": "SHUTDOWN",\n"data": {"guest": true,\n'
            '"reason": "boredom"}}]}]}'
        ),
        "scenario.json:4: Parameter 'rules[0].steps[0].data.reason' does not accept value 'boredom'",
    ),
    (
        '{"rules": [{"command": "stop",\n "steps": [{"step": "reply", "return": 1}]}]}',
        "scenario.json:2: rules[0].steps[0].return: the command 'stop' returns nothing, expected {}",
    ),
    (
        '{"rules": [{"command": "fly",\n "steps": [{"step": "reply"}]}]}',
        "scenario.json:2: rules[0].steps[0]: the schema has no command 'fly': say what it returns",
    ),
    (
        '{"connect": [{"steps": [\n{"step": "reply"}]}]}',
        "scenario.json:2: connect[0].steps[0]: there is no command to answer with 'reply'",
    ),
    (
        '{"rules": [{"command": "x", "nth":\n0, "steps": []}]}',
        "scenario.json:1: rules[0].nth: is counted from 1",
    ),
    (
        '{"rules": [{"command": "x", "steps": [{"step": "event", "event": "STOP", "data": []}]}]}',
        "scenario.json:1: rules[0].steps[0].data: an event's data are an object",
    ),
    ('{"oob": true,\n "oob": false}', "scenario.json: the member 'oob' is there twice"),
    ('{"oob": true,\n}', "scenario.json:2:1: Expecting property name enclosed in double quotes"),
    ("[]", "scenario.json:1: Invalid parameter type for '<anonymous>', expected: object"),
    (
        (
            'oob = true\n\n[[rules]]\ncommand = "stop"\nsteps = []\n\n[[rules]]\ncommand = "stop"\nsteps = [\n'
            '  { step = "reply" },\n  { step = "sleep", seconds = "long" },\n]\n'
        ),
        "scenario.toml:11: Invalid parameter type for 'rules[1].steps[1].seconds', expected: number",
    ),
    ("oob = maybe\n", "scenario.toml:1:7: Invalid value"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_errors_name_the_place(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = message.partition(":")[0]
    (tmp_path / name).write_text(text)
    with pytest.raises(GenericError) as caught:
        load(name)
    assert str(caught.value) == message


def test_what_is_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--scenario", str(tmp_path / "none.json"), "-qmp", "fd:0"]) == 1
    assert capfd.readouterr().err.endswith(f"{tmp_path}/none.json: No such file or directory\n")
    (tmp_path / "bytes.json").write_bytes(b'{"\xff')
    with pytest.raises(GenericError, match="not UTF-8 at byte 2"):
        load(str(tmp_path / "bytes.json"))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("null", "'null' is no socket, expected unix:PATH, tcp:HOST:PORT or fd:NUMBER"),
        ("nonsense", "'nonsense' is not a valid char driver"),
        ("unix:/nonexistent/x", "Failed to bind socket to /nonexistent/x: No such file or directory"),
        ("fd:x", "Unable to parse FD number x"),
    ],
)
def test_wrong_addresses(address: str, text: str) -> None:
    ended = subprocess.run([QEMUD, "double", "-qmp", address], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.endswith(f": {text}\n")


def test_the_schema_of_scenarios() -> None:
    text = subprocess.run([QEMUD, "double", "--schema"], capture_output=True, text=True, check=True).stdout
    schema = json.loads(text)
    assert schema == scenario_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    with open(DEFAULTS) as file:
        validator.validate(json.load(file))
    validator.validate({"rules": [{"command": "stop", "steps": [{"step": "reply", "pad": 9}]}]})
    for wrong in (
        {"rules": [{"command": "stop"}]},
        {"rules": [{"command": "stop", "steps": [{"step": "jump"}]}]},
        {"rules": [{"command": "stop", "steps": [{"step": "sleep"}]}]},
        {"what": 1},
    ):
        assert not validator.is_valid(wrong)


_values = st.recursive(
    st.integers(-1000, 1000) | st.text() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> set[tuple[Any, ...]]:
    found = {path}
    if isinstance(value, dict):
        for name, item in value.items():
            found |= places(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found |= places(item, (*path, index))
    return found


@given(_values, st.sampled_from([None, 1]))
def test_every_value_of_a_json_document_has_a_line(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    lines = json_lines(text)
    assert set(lines) == places(value)
    assert set(lines.values()) <= set(range(1, text.count("\n") + 2))


def toml(value: Any, data: st.DataObject) -> str:
    """A value written in TOML, arrays over many lines."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            gap = data.draw(st.sampled_from(["", "\n", " # [\n"]))
            return "[" + "".join(f"{gap}{toml(item, data)},{gap}" for item in value) + "]"
        case dict():
            return (
                "{"
                + ", ".join(f"{json.dumps(key)} = {toml(item, data)}" for key, item in value.items())
                + "}"
            )
        case str():
            return json.dumps(value).replace("\x7f", "\\u007f")
        case _:
            return str(value)


_plain = st.text(st.characters(max_codepoint=0xFFF, exclude_categories=["Cs"]), max_size=5)
_toml_values = st.recursive(
    st.integers(-1000, 1000) | _plain | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_plain, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_plain, _toml_values, max_size=3), st.lists(_toml_values, max_size=2), st.data())
def test_every_value_of_a_toml_document_has_a_line(
    top: dict[str, Any], rows: list[Any], data: st.DataObject
) -> None:
    top.pop("row", None)
    text = "".join(f"{json.dumps(key)} = {toml(value, data)} # note\n" for key, value in top.items())
    text = text.replace("\x7f", "\\u007f")
    text += "".join(f"\n[[row]]\nvalue.inner = {toml(row, data)}\n[row.more]\n" for row in rows)
    parsed = tomllib.loads(text)
    lines = toml_lines(text)
    assert set(lines) == places(parsed)
    for index, _ in enumerate(rows):
        line = lines["row", index, "value", "inner"]
        assert text.split("\n")[line - 1].startswith("value.inner = ")


_SCENARIO = {
    "oob": False,
    "answers": [{"command": "query-name", "return": {"name": "x"}}],
    "connect": [{"nth": 1, "steps": [{"step": "greet"}, {"step": "expect", "bytes": 1}]}],
    "rules": [
        {
            "command": "stop",
            "nth": 1,
            "steps": [{"step": "event", "event": "STOP"}, {"step": "reply", "pad": 1, "return": {}}],
        }
    ],
}


def changed(value: Any, data: st.DataObject) -> Any:
    """A value with something in it changed."""
    if not data.draw(st.booleans()):
        match value:
            case dict() if value:
                name = data.draw(st.sampled_from(sorted(value)))
                return {**value, data.draw(st.sampled_from([name, name, "what"])): changed(value[name], data)}
            case list() if value:
                index = data.draw(st.integers(0, len(value) - 1))
                return [*value[:index], changed(value[index], data), *value[index + 1 :]]
    return data.draw(_values)


@given(st.data())
def test_whatever_a_scenario_says_it_is_played_or_refused_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.json"
    path.write_text(json.dumps(changed(_SCENARIO, data), indent=1))
    told = f"{path}:"
    try:
        load(str(path))
    except GenericError as error:
        told = str(error)
    assert told.startswith(f"{path}:")
    assert told.isprintable()


@pytest.mark.parametrize("name", ["deep.json", "deep.toml"])
@pytest.mark.parametrize("depth", [500, 5000, 100_000])
def test_documents_that_are_too_deep(name: str, depth: int, tmp_path: Path) -> None:
    path = tmp_path / name
    text = "[" * depth + "]" * depth
    path.write_text(text if name.endswith("json") else f"connect = {text}")
    with pytest.raises(GenericError):
        load(str(path))

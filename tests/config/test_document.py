"""The machine as one document: what is read, what `query-config` returns, and that the two are the same."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.daemon import config
from qemud.daemon.cmdline import UsageError, occurrences, parse
from qemud.qapi.runtime.document import DocumentError, read_document
from tests.config.strategies import IDS, TEXTS
from tests.programs import LIMIT, QEMUD, Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

RAM = 0x8000_0000
TOML = """
paused = true
serial = ["chardev:console"]

[name]
guest = "it"
debug-threads = true

[machine]
type = "virt"
aclint = true
memory = { size = 67108864 }

[[objects]]
qom-type = "memory-backend-ram"
id = "m0"
size = 4096

[[chardevs]]
id = "console"
backend = { type = "ringbuf", data = { size = 4096 } }

[[devices]]
driver = "loader"
id = "l0"
addr = 2147483648
data = 1
data-len = 4
"""

SERVED = st.sampled_from(["reset", "shutdown"])
OBJECT = st.fixed_dictionaries(
    {"qom-type": st.just("memory-backend-ram"), "size": st.sampled_from([4096, 8192])},
    optional={"merge": st.booleans(), "dump": st.booleans(), "share": st.booleans()},
)
LOADER = st.fixed_dictionaries(
    {
        "driver": st.just("loader"),
        "addr": st.integers(RAM, RAM + (1 << 20)),
        "data": st.integers(0, (1 << 64) - 1),
        "data-len": st.just(8),
    },
    optional={"data-be": st.booleans()},
)
BACKEND = st.one_of(
    st.builds(lambda: {"type": "null", "data": {}}),
    st.sampled_from([4096, 65536]).map(lambda size: {"type": "ringbuf", "data": {"size": size}}),
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A machine at random."""
    names = draw(st.lists(IDS, max_size=5, unique=True))
    document: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {"paused": st.just(True)},
            optional={
                "name": st.fixed_dictionaries({}, optional={"guest": TEXTS}),
                "uuid": st.uuids().map(str),
                "action": st.fixed_dictionaries(
                    {"reboot": SERVED, "panic": st.sampled_from(["none", "pause"])}
                ),
                # Made anew each time: a test changes it.
                "globals": st.builds(
                    lambda: [{"driver": "serial-mm", "property": "baudbase", "value": "115,200"[:3]}]
                ),
                "accel": st.fixed_dictionaries(
                    {"tb-size": st.sampled_from([8, 16])},
                    optional={"thread": st.sampled_from(["single", "multi"])},
                ),
                "cpu": st.sampled_from(["rv64", "max"]),
            },
        )
    )
    document["machine"] = {
        "type": draw(st.sampled_from(["virt-10.0", "virt-9.2", "virt-7.2"])),
        "aclint": draw(st.booleans()),
        "memory": {"size": draw(st.sampled_from([32 << 20, 64 << 20]))},
        **draw(st.fixed_dictionaries({}, optional={"x-fdt-serial-alias": st.booleans()})),
    }
    document["objects"] = [{"id": name, **draw(OBJECT)} for name in names[:2]]
    document["chardevs"] = [{"id": name, "backend": draw(BACKEND)} for name in names]
    document["serial"] = [f"chardev:{name}" for name in names[:1]]
    document["devices"] = [
        {"id": name, **draw(LOADER), **({"cpu-num": 0} if not index else {})}
        for index, name in enumerate(names)
    ]
    return document


def own(document: dict[str, Any]) -> dict[str, Any]:
    """A document without the monitor that the test itself talks to."""
    without = dict(document)
    for member, name in (("chardevs", "id"), ("monitors", "chardev")):
        rest = [each for each in document[member] if each[name] != "test-qmp"]
        without.pop(member)
        if rest:
            without[member] = rest
    return without


def within(part: Any, whole: Any) -> bool:
    """Whether all that `part` says is in `whole`, which may say more."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    return bool(part == whole)


@settings(max_examples=6, deadline=None)
@given(document=documents())
def test_a_machine_from_its_own_document_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
):
    path = tmp_path_factory.getbasetemp() / "machine.json"
    path.write_text(json.dumps(document))
    with Program(QEMUD, "--config", str(path)) as program:
        first = own(program.qmp.command("query-config"))
    said = {member: value for member, value in document.items() if value not in ([], {})}
    assert within(said, first)
    path.write_text(json.dumps(first))
    config.check(read_document(str(path)))
    with Program(QEMUD, "--config", str(path)) as program:
        assert own(program.qmp.command("query-config")) == first


def test_toml_and_what_clients_change(daemon: Starter, tmp_path: Path):
    path = tmp_path / "machine.toml"
    path.write_text(TOML)
    program = daemon("--config", str(path))
    qmp = program.qmp
    assert qmp.command("query-name") == {"name": "it"}
    assert qmp.command("query-status")["status"] == "prelaunch"
    assert qmp.command("qom-get", path="/machine/uart0", property="chardev") == "console"
    qmp.command("object-add", **{"qom-type": "memory-backend-ram", "id": "m1", "size": 8192})
    qmp.command("object-del", id="m0")
    qmp.command("chardev-add", id="more", backend={"type": "null", "data": {}})
    qmp.command("set-action", reboot="shutdown")
    qmp.command("cont")
    now = own(qmp.command("query-config"))
    assert [(each["id"], each["size"]) for each in now["objects"]] == [("m1", 8192)]
    assert [each["id"] for each in now["chardevs"]] == ["console", "more"]
    assert now["action"]["reboot"] == "shutdown"
    assert now["name"] == {"guest": "it", "debug-threads": True}
    assert "paused" not in now


def test_the_command_line_is_in_the_document(daemon: Starter, tmp_path: Path):
    program = daemon(
        *("-machine", "virt,aclint=on", "-m", "64", "-display", "none", "-nodefaults", "-S", "-name", "it"),
        *(
            "-chardev",
            "null,id=c,mux=on",
            "-serial",
            "chardev:c",
            "-mon",
            "chardev=c",
            "-rtc",
            "base=localtime",
        ),
        *("-device", "loader,addr=0x80000000,data=1,data-len=1", "-global", "serial-mm.baudbase=5"),
    )
    first = own(program.qmp.command("query-config"))
    assert [each["id"] for each in first["chardevs"]] == ["c-base", "c"]
    assert first["monitors"] == [{"mode": "readline", "chardev": "c"}]
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(first))
    again = daemon("--config", str(path))
    assert own(again.qmp.command("query-config")) == first


def test_secrets_are_not_in_the_document(daemon: Starter, tmp_path: Path):
    kept = tmp_path / "kept"
    kept.write_text("from a file")
    program = daemon(
        "-machine", "none", "-object", f"secret,id=s0,file={kept}", "-object", "secret,id=s1,data=hush1"
    )
    program.qmp.command(
        "object-add", **{"qom-type": "secret", "id": "s2", "data": "aHVzaDI=", "format": "base64"}
    )
    assert program.qmp.command("qom-get", path="/objects/s1", property="data") == "hush1"
    document = own(program.qmp.command("query-config"))
    assert document["objects"] == [
        {"qom-type": "secret", "id": "s0", "file": str(kept), "format": "raw"},
        {"qom-type": "secret", "id": "s1", "format": "raw"},
        {"qom-type": "secret", "id": "s2", "format": "base64"},
    ]
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(document, indent=1))
    done = subprocess.run([QEMUD, "--config", str(path)], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert done.stderr.endswith("Either 'file' or 'data' must be provided\n")
    # With what is missing it is the same machine.
    for each in document["objects"][1:]:
        each["file"] = str(kept)
    document["objects"][2]["format"] = "raw"
    path.write_text(json.dumps(document))
    assert own(daemon("--config", str(path)).qmp.command("query-config")) == document


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '{\n "machine": {\n  "type": "virt",\n  "aclint": "on"\n }\n}', "4: {0}"),
        ("a.toml", '[machine]\ntype = "virt"\naclint = "on"\n', "3: {0}"),
        ("b.json", '{"objects": [\n{"qom-type": "memory-backend-ram", "id": "m",\n"size": -1}]}', "3: {1}"),
        ("c.json", '{\n"nope": 1}', "2: Parameter 'nope' is unexpected"),
        ("d.json", "[]", "1: Invalid parameter type for '<anonymous>', expected: object"),
        ("e.json", "{", "1:2: Expecting property name enclosed in double quotes"),
        ("f.toml", "a = \n", "1:5: Invalid value"),
        ("g.json", '{"paused": true, "paused": true}', " the member 'paused' is there twice"),
    ],
)
def test_errors_name_the_line_and_the_path(tmp_path: Path, name: str, text: str, told: str):
    path = tmp_path / name
    path.write_text(text)
    texts = (
        "Invalid parameter type for 'machine.aclint', expected: boolean",
        "Parameter 'objects[0].size' expects uint64",
    )
    with pytest.raises(UsageError) as caught:
        parse(["--config", str(path)])
    expected = told.format(*texts)
    assert str(caught.value) == f"{path}:{expected}"
    done = subprocess.run(
        [QEMUD.replace("-system-riscv64", ""), "config", "check", str(path)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(f": {caught.value}\n")


def test_the_schema_is_one(tmp_path: Path):
    path = tmp_path / "machine.toml"
    path.write_text(TOML)
    document = read_document(str(path))
    config.check(document)
    jsonschema.Draft202012Validator.check_schema(config.schema())
    command = QEMUD.replace("-system-riscv64", "")
    done = subprocess.run([command, "config", "schema"], capture_output=True, text=True, timeout=LIMIT)
    assert json.loads(done.stdout) == config.schema()
    assert (
        subprocess.run([command, "config", "check", path], capture_output=True, timeout=LIMIT).returncode == 0
    )
    assert subprocess.run([command, "config"], capture_output=True, timeout=LIMIT).returncode == 2


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 1 << 65), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(document=documents(), data=st.data())
def test_both_checks_agree_and_nothing_does_harm(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], data: st.DataObject
):
    """One value anywhere replaced by another: right for both checks or wrong for both, with a sentence."""
    check_both_ways(tmp_path_factory.getbasetemp() / "mutated.json", document, data)


def check_both_ways(path: Path, document: dict[str, Any], data: st.DataObject) -> None:
    """Replace one value of a document; both checks say the same of it."""
    document = json.loads(json.dumps(document))  # nothing of it is shared, not even with the next example
    places = list(_places(document))
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(VALUES)
    path.write_text(json.dumps(document))
    read = read_document(str(path))
    valid = jsonschema.Draft202012Validator(config.schema()).is_valid(read.value)
    try:
        read.typed("Configuration")
        taken = True
    except DocumentError:
        taken = False
    assert taken == valid
    if taken:
        assert list(occurrences(["--config", str(path)]))


def _places(value: Any) -> Any:
    """Everything in a document that can be replaced: its holder, and its key there."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(pairs):
        yield value, key
        yield from _places(each)


@given(st.binary(max_size=120))
def test_no_bytes_do_harm(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    for suffix in ("json", "toml"):
        path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
        path.write_bytes(content)
        told = str(path)
        try:
            parse(["--config", str(path)])
        except UsageError as error:
            told = str(error)
        assert told.startswith(str(path))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vm.json", '{"uuid": ' + "1" * 5000 + "}", "vm.json: an integer has more than 4300 digits"),
        ("vm.toml", "uuid = " + "1" * 5000, "vm.toml: an integer has more than 4300 digits"),
        ("vm.json", '{\n"cpu": "\\uD800"}', "vm.json:2: \\ud800 is not a valid Unicode character"),
    ],
    ids=["digits", "digits in TOML", "half a character"],
)
def test_what_python_could_not_hold(tmp_path: Path, name: str, content: str, said: str):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DocumentError) as caught:
        read_document(str(path))
    assert str(caught.value) == f"{tmp_path}/{said}"

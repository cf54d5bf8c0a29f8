"""Files of `-readconfig` and `-writeconfig`: what one writes the other reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import asdict

from qemud.daemon.cmdline import OPTIONS, UsageError, occurrences, parse
from qemud.daemon.ini import GROUPS, written
from qemud.net.options import NESTED, is_nested, netdev
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type
from tests.config.strategies import COMMAND_LINES
from tests.programs import LIMIT, QEMUD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program


def read(path: Path, text: str | bytes) -> Any:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse(["-readconfig", str(path)])


def meaning(words: list[str]) -> dict[str, Any]:
    """What a command line says, whichever way it says it."""
    values = asdict(parse(words))
    del values["readconfig"]
    for option, implied in [
        ("device", "driver"),
        ("object", "qom-type"),
        ("chardev", "backend"),
        ("accel", "accel"),
        ("drive", None),
        ("nic", "type"),
        ("net", "type"),
        ("fw_cfg", "name"),
    ]:
        values[option] = [_plain(text, implied) for text in values[option] or ()]
    values["blockdev"] = [_nested(text, "driver", "BlockdevOptions") for text in values["blockdev"] or ()]
    values["netdev"] = _networks(values["netdev"] or ())
    if values["machine"] is not None:
        values["machine"] = _plain(values["machine"], "type")
    return values


def _networks(texts: Iterable[str]) -> list[Any]:
    """Networks in the order in which they are made: of QEMU's two syntaxes the newer comes first; hubs come after what they name."""
    newer = [text for text in texts if text.startswith("{") or is_nested(text)]
    older = [text for text in texts if text not in newer]
    made: list[Any] = [_nested(text, "type", "Netdev") for text in newer]
    made.sort(key=lambda each: each.type.value not in NESTED)
    return [*made, *(netdev(text, lambda _warning: None) for text in older)]


def _plain(text: str, implied: str | None) -> dict[str, str]:
    if text.startswith("{"):
        return {
            key: ("on" if value else "off") if isinstance(value, bool) else str(value)
            for key, value in json.loads(text).items()
        }
    return qemuopts.parse(text, implied=implied)


def _nested(text: str, implied: str, type_name: str) -> Any:
    if text.startswith("{"):
        return parse_type(type_name, json.loads(text))
    return parse_keyval_type(type_name, parse_keyval(text, implied))


@given(COMMAND_LINES)
@example(["-global", "a.b=c,d=e"])
@example(["-object", "memory-backend-ram,id=m,size=1,host-nodes=0,host-nodes=1"])
@example(["-name", "guest=a,,b"])
@example(["-name", ""])
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, words: list[str]):
    path = tmp_path_factory.getbasetemp() / "round-trip.cfg"
    text = written(occurrences(words))
    path.write_text(text)
    again = ["-readconfig", str(path)]
    assert meaning(again) == meaning(words)
    assert written(occurrences(again)) == text


def test_groups_are_options():
    for option, _ in GROUPS.values():
        assert OPTIONS[option].read is not None
        assert not OPTIONS[option].alias


def test_a_file_of_qemus(tmp_path: Path):
    line = read(
        tmp_path / "vm.cfg",
        '# qemu config file\n\n[machine]\n  type = "virt"\n\n[memory]\n  size = "64"\n\n[smp-opts]\n  cpus = "1"\n\n'
        '[chardev "c0"]\n  backend = "null"\n\n[mon "m0"]\n  mode = "control"\n  chardev = "c0"\n\n'
        '[device "l"]\n  driver = "loader"\n  addr = "0"\n\n[name]\n  guest = ""\n',
    )
    assert (line.machine, line.m.size, line.smp.cpus) == ("type=virt", 64 << 20, 1)
    assert line.chardev == ["id=c0,backend=null"]
    assert (line.mon[0].id, line.mon[0].chardev) == ("m0", "c0")
    assert line.name.guest == ""


def with_disks_and_networks(folder: Path) -> list[str]:
    """Options that have groups in QEMU, for two disks and a card."""
    for name in ("a,b.img", "c.img"):
        (folder / name).write_bytes(bytes(1 << 20))
    return [
        *("-machine", "virt", "-m", "64"),
        *("-drive", f"if=none,id=d0,format=raw,werror=stop,file={folder}/a,,b.img"),
        *("-drive", f"if=virtio,driver=raw,file.driver=file,file.filename={folder}/c.img,read-only=on"),
        *("-device", "virtio-blk-device,drive=d0,id=vd"),
        *("-netdev", "user,id=n0,hostname=guest,restrict=on"),
        *("-device", "virtio-net-device,netdev=n0,mac=52:54:00:12:34:99,id=card"),
        *("-fw_cfg", "name=opt/x,string=a,,b"),
    ]


GROUPS_THERE = ["machine", "memory", "drive", "drive", "device", "netdev", "device", "fw_cfg"]


@pytest.mark.differential
def test_a_file_with_disks_and_networks_means_the_same_to_qemu(
    daemon: Starter, reference: Starter, tmp_path: Path
):
    words = with_disks_and_networks(tmp_path)
    text = written(occurrences(words))
    assert re.findall(r"^\[(\S+?)[\s\]]", text, re.MULTILINE) == GROUPS_THERE
    assert "argument" not in text
    path = tmp_path / "vm.cfg"
    path.write_text(text)
    rest = ("-display", "none", "-nodefaults", "-S")
    told = [
        what_is_there(start(*given, *rest))
        for start, given in (
            (daemon, ("-readconfig", str(path))),
            (reference, ("-readconfig", str(path))),
            (reference, words),
        )
    ]
    assert told[0] == told[1] == told[2]


def what_is_there(program: Program) -> Any:
    """Disks and the card, as far as both programs tell the same of them; the program ends."""
    qmp = program.qmp
    blocks = [
        (
            each["device"],
            each.get("io-status"),
            each["inserted"]["file"],
            each["inserted"]["ro"],
            each["inserted"]["drv"],
        )
        for each in qmp.command("query-block")
    ]
    cards = [
        qmp.command("qom-get", path="/machine/peripheral/card", property=name) for name in ("netdev", "mac")
    ]
    drive = qmp.command("qom-get", path="/machine/peripheral/vd", property="drive")
    qmp.command("quit")
    program.wait()
    return sorted(blocks), cards, drive


def test_a_machine_with_disks_is_written_and_read(daemon: Starter, tmp_path: Path):
    path = tmp_path / "vm.cfg"
    words = with_disks_and_networks(tmp_path)
    json_words = (
        *("-blockdev", '{"driver": "null-co", "node-name": "n0", "size": 1048576}'),
        *(
            "-netdev",
            '{"type": "stream", "id": "s0", "addr": {"type": "unix", "path": "/no"}, "reconnect-ms": 9000000}',
        ),
    )
    rest = ("-display", "none", "-nodefaults", "-S")
    path.write_text(written(occurrences([*words, *json_words, *rest])))
    again = daemon("-readconfig", str(path))
    document = again.qmp.command("query-config")
    assert [each["id"] for each in document["drives"]] == ["d0", "virtio0"]
    assert [each["node-name"] for each in document["blockdevs"]] == ["n0"]
    assert [each["id"] for each in document["netdevs"]] == ["s0", "n0"]
    assert document["fw-cfg"] == [{"name": "opt/x", "string": "a,b"}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('type = "virt"\n', "1: no group defined"),
        ("[machine]\nvirt\n", "2: parse error"),
        ("[machine\n", "1: parse error"),
        ('[machine]\ntype = "virt" x\n', "2: parse error"),
        ('\n\n[nope]\nx = "1"\n', "3: There is no option group 'nope'"),
        ("[help]\n", "1: There is no option group 'help'"),
        ('[readconfig]\nargument = "x"\n', "1: There is no option group 'readconfig'"),
        ('[S]\nx = "1"\n', "1: Invalid parameter 'x'"),
        ("[kernel]\n", "1: Parameter 'argument' is missing"),
        ('[kernel]\nfile = "1"\n', "1: Invalid parameter 'file'"),
        ('# one\n[name]\n  hello = "x"\n', "2: Invalid parameter 'hello'"),
        ('[memory]\n  size = "x"\n', "1: Parameter 'size' expects a non-negative number below 2^64"),
        ('[machine]\na,b = "x"\n', "1: Invalid parameter 'a,b'"),
        (b'[name]\n  guest = "\xff"\n', "2: not valid UTF-8"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str | bytes, told: str):
    path = tmp_path / "vm.cfg"
    with pytest.raises(UsageError) as caught:
        read(path, text)
    assert str(caught.value).split("\n")[0] == f"{path}:{told}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '\n[drive "d"]\n  if = "none"\n  file = "/nowhere/x"\n  format = "raw"\n',
            "2: Could not open '/nowhere/x'",
        ),
        (
            '[drive "d"]\n  if = "none"\n  wrong = "1"\n  driver = "null-co"\n',
            "1: Block protocol 'null-co' doesn't support the option 'wrong'",
        ),
        ('\n\n[netdev "n"]\n  type = "user"\n  wrong = "1"\n', "3: Invalid parameter 'wrong'"),
        ('[blockdev]\n  argument = "null-co,node-name=a,wrong=1"\n', "1: Parameter 'wrong' is unexpected"),
        ('[fw_cfg]\n  name = "opt/x"\n', "1: name, plus exactly one of file, string and gen_id, are needed"),
    ],
)
def test_errors_of_disks_and_networks_name_the_line(tmp_path: Path, text: str, told: str):
    path = tmp_path / "vm.cfg"
    path.write_text(text)
    command = [QEMUD, "-machine", "virt", "-display", "none", "-readconfig", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{QEMUD}: {path}:{told}")


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UsageError, match=f"Could not open '{tmp_path}/no': No such file or directory"):
        parse(["-readconfig", str(tmp_path / "no")])
    with pytest.raises(UsageError, match=r"Could not open '.*': Is a directory"):
        parse(["-readconfig", str(tmp_path)])
    with pytest.raises(UsageError, match="longer than 1048576 bytes"):
        parse(["-readconfig", "/dev/zero"])


def test_pipes_do_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert list(occurrences(["-readconfig", str(tmp_path / "pipe")])) == [
        ("readconfig", f"{tmp_path}/pipe", f"-readconfig {tmp_path}/pipe: ")
    ]
    with pytest.raises(UsageError, match="Expecting value"):
        parse(["--config", str(tmp_path / "pipe")])
    done = subprocess.run(
        [QEMUD, "-writeconfig", str(tmp_path / "pipe")], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 1
    assert "No such device or address" in done.stderr


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("append", 'a"b'),
        ("append", "a\nb"),
        ("drive", '{"id": "d"}'),
        ("blockdev", '{"driver": "qcow2", "node-name": "a", "file": "b", "backing": null}'),
        ("netdev", '{"type": "user", "id": "n", "hostfwd": []}'),
    ],
)
def test_what_cannot_be_written(option: str, text: str):
    with pytest.raises(UsageError, match=f"-{option} has a double quote or an end of a line in it"):
        written(occurrences([f"-{option}", text]))


@given(st.one_of(st.binary(max_size=200), st.text('[]" \n=,#ab-0', max_size=80).map(str.encode)))
def test_no_file_does_harm(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.getbasetemp() / "fuzz.cfg"
    told = str(path)
    try:
        read(path, data)
    except UsageError as error:
        told = str(error)
    assert told.startswith(str(path))


def test_a_machine_from_a_file(daemon: Starter, tmp_path: Path):
    path = tmp_path / "vm.cfg"
    described = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-S", "-name", "it")
    object_ = (
        "-object",
        "memory-backend-ram,id=m0,size=4096",
        "-device",
        "loader,id=l,addr=0x80000000,data=1,data-len=1",
    )
    program = daemon(*described, *object_, "-writeconfig", str(path))
    program.qmp.command("quit")
    # The test's own monitor is written as well; it would be there twice.
    text = path.read_text()
    assert '[chardev "test-qmp"]' in text
    groups = [group for group in text.split("\n\n") if "test-qmp" not in group]
    path.write_text("\n\n".join(groups))
    again = daemon("-readconfig", str(path))
    assert again.qmp.command("query-name") == {"name": "it"}
    assert again.qmp.command("query-status")["status"] == "prelaunch"
    assert again.qmp.command("qom-get", path="/objects/m0", property="size") == 4096
    assert again.qmp.command("qom-get", path="/machine/peripheral/l", property="data") == 1


def test_standard_output(tmp_path: Path):
    bad = ("-machine", "none", "-display", "none", "-pidfile", str(tmp_path / "no" / "pid"))
    done = subprocess.run(
        [QEMUD, *bad, "-writeconfig", "-"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.startswith('# qemud config file\n\n[machine]\n  type = "none"\n')
    assert done.returncode == 1

"""Descriptors that really pass over the monitor's socket, and what may be done with them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import Console, QmpClient, QmpError, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

NONE = ("-machine", "none", "-nodefaults", "-S", "-display", "none", "-monitor", "none")
VIRT = ("-machine", "virt", "-m", "16", "-nodefaults", "-S", "-display", "none", "-monitor", "none")


def passing(client: QmpClient, fds: list[int], name: str, **arguments: Any) -> Any:
    """Execute a command that descriptors come with. Names have dashes where Python's have underscores."""
    given = {key.replace("_", "-"): value for key, value in arguments.items()}
    request = {"execute": name, "arguments": given}
    socket.send_fds(client.socket, [json.dumps(request).encode()], fds)
    reply = client.reply()
    if "error" in reply:
        raise QmpError(reply["error"])
    return reply["return"]


@contextlib.contextmanager
def opened(path: Path | str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def open_descriptors(program: Program) -> set[str]:
    folder = f"/proc/{program.process.pid}/fd"
    found = set()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"{folder}/{name}"))
    return found


def test_a_socket_by_name_becomes_a_chardev(daemon: Starter) -> None:
    program = daemon(*NONE)
    here, there = socket.socketpair()
    with there:
        passing(program.qmp, [there.fileno()], "getfd", fdname="s")
    stream = Stream(here)
    address = {"type": "fd", "data": {"str": "s"}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    program.qmp.command("chardev-add", id="c", backend=backend)
    program.qmp.command("monitor-add", id="m", chardev="c")
    client = QmpClient(here)
    assert client.command("query-name") == {}
    with pytest.raises(QmpError, match="File descriptor named 's' has not been found"):
        program.qmp.command("chardev-add", id="d", backend=backend)
    stream.close()


def test_a_name_stays_when_its_client_goes_and_ends_with_closefd(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE)
    path = tmp_path / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        passing(program.qmp, [fd], "getfd", fdname="f")
        passing(program.qmp, [fd], "getfd", fdname="f")
    program.qmp.close()
    client = program.connect()
    assert str(path) in open_descriptors(program)
    client.command("closefd", fdname="f")
    assert str(path) not in open_descriptors(program)
    with pytest.raises(QmpError, match=r"^File descriptor named 'f' not found$"):
        client.command("closefd", fdname="f")


def test_descriptors_that_no_command_takes_are_closed(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE)
    path = tmp_path / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        passing(program.qmp, [fd, fd], "query-name")
        passing(program.qmp, [fd], "add-fd")
    program.qmp.command("remove-fd", {"fdset-id": 0})
    program.qmp.close()
    program.connect()
    assert str(path) not in open_descriptors(program)


def test_sets_outlive_their_client(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE)
    with opened(tmp_path / "f", os.O_RDWR | os.O_CREAT) as fd:
        added = passing(program.qmp, [fd], "add-fd", fdset_id=3, opaque="mine")
    program.qmp.close()
    client = program.connect()
    assert client.command("query-fdsets") == [{"fdset-id": 3, "fds": [{"fd": added["fd"], "opaque": "mine"}]}]
    client.command("remove-fd", {"fdset-id": 3, "fd": added["fd"]})
    assert client.command("query-fdsets") == []


def test_a_set_lives_while_a_chardev_uses_it(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE)
    log = tmp_path / "log"
    log.write_text("before ")
    with opened(log, os.O_WRONLY | os.O_APPEND) as fd:
        passing(program.qmp, [fd], "add-fd", fdset_id=0)
    data = {"out": "/dev/fdset/0", "append": True}
    program.qmp.command("chardev-add", id="c", backend={"type": "file", "data": data})
    program.qmp.command("remove-fd", {"fdset-id": 0})
    assert program.qmp.command("query-fdsets") == [{"fdset-id": 0, "fds": []}]
    program.qmp.command("chardev-remove", id="c")
    assert program.qmp.command("query-fdsets") == []
    assert log.read_text() == "before "


def test_every_file_name_may_be_a_set(daemon: Starter, tmp_path: Path) -> None:
    """Memory to files, a log, a secret, a memory backend."""
    program = daemon(*VIRT)
    qmp = program.qmp
    for name, number in (("memory", 1), ("tree", 2), ("log", 3)):
        with opened(tmp_path / name, os.O_WRONLY | os.O_CREAT) as fd:
            passing(qmp, [fd], "add-fd", fdset_id=number)
    qmp.command("pmemsave", val=0x8000_0000, size=8192, filename="/dev/fdset/1")
    qmp.command("dumpdtb", filename="/dev/fdset/2")
    ringbuf = {"type": "ringbuf", "data": {"logfile": "/dev/fdset/3"}}
    qmp.command("chardev-add", id="r", backend=ringbuf)
    qmp.command("ringbuf-write", device="r", data="logged")
    qmp.command("chardev-remove", id="r")
    assert (tmp_path / "memory").stat().st_size == 8192
    assert (tmp_path / "tree").read_bytes()[:4] == b"\xd0\x0d\xfe\xed"
    (tmp_path / "key").write_bytes(b"secret")
    with opened(tmp_path / "key", os.O_RDONLY) as fd:
        passing(qmp, [fd], "add-fd", fdset_id=4)
    for number in range(2):  # its position does not move on
        qmp.command("object-add", {"qom-type": "secret", "id": f"s{number}", "file": "/dev/fdset/4"})
    with opened(tmp_path / "ram", os.O_RDWR | os.O_CREAT) as fd:
        passing(qmp, [fd], "add-fd", fdset_id=5)
    backend = {"qom-type": "memory-backend-file", "id": "m", "size": 4096, "mem-path": "/dev/fdset/5"}
    qmp.command("object-add", backend)
    assert (tmp_path / "ram").stat().st_size == 4096
    qmp.command("remove-fd", {"fdset-id": 5})
    assert [each["fdset-id"] for each in qmp.command("query-fdsets")] == [5, 4, 3, 2, 1]
    qmp.command("object-del", id="m")
    assert [each["fdset-id"] for each in qmp.command("query-fdsets")] == [4, 3, 2, 1]


def test_what_a_set_cannot_be_opened_for(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*VIRT)
    with opened(tmp_path / "f", os.O_RDONLY | os.O_CREAT) as fd:
        passing(program.qmp, [fd], "add-fd", fdset_id=1)
    with pytest.raises(QmpError, match=r"^Could not open '/dev/fdset/1': Permission denied: Failed to find"):
        program.qmp.command("pmemsave", val=0, size=1, filename="/dev/fdset/1")
    with pytest.raises(QmpError, match=r"^Could not open '/dev/fdset/9': No such file or directory: Failed"):
        program.qmp.command("dumpdtb", filename="/dev/fdset/9")
    backend = {"type": "null", "data": {"logfile": "/dev/fdset/x"}}
    with pytest.raises(QmpError, match=r"Could not create '/dev/fdset/x': Invalid argument: Could not parse"):
        program.qmp.command("chardev-add", id="n", backend=backend)


def test_descriptors_from_the_command_line(daemon: Starter, tmp_path: Path) -> None:
    """As management tools start it: a serial port into a file that only they may open, a kernel likewise."""
    (tmp_path / "kernel").write_bytes(b"\x73\x00\x50\x10" * 4)
    with (
        opened(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as log,
        opened(tmp_path / "kernel", os.O_RDONLY) as kernel,
    ):
        program = daemon(
            *VIRT,
            *("-add-fd", f"set=0,fd={log},opaque=serial0-log"),
            *("-add-fd", f"fd={kernel},set=1"),
            *("-chardev", "file,id=c,path=/dev/fdset/0,append=on", "-serial", "chardev:c"),
            *("-kernel", "/dev/fdset/1"),
            pass_fds=[log, kernel],
        )
        sets = program.qmp.command("query-fdsets")
        assert [(each["fdset-id"], each["fds"][0].get("opaque")) for each in sets] == [
            (1, None),
            (0, "serial0-log"),
        ]
        roms = program.qmp.command("x-query-roms")["human-readable-text"]
        assert 'size=0x000010 mem=ram name="/dev/fdset/1"' in roms


def test_a_connected_socket_becomes_a_chardevs_client(daemon: Starter) -> None:
    program = daemon(
        *NONE, "-chardev", "socket,id=c,host=127.0.0.1,port=0,server=on,wait=off", "-qmp", "chardev:c"
    )
    here, there = socket.socketpair()
    with there:
        passing(program.qmp, [there.fileno()], "getfd", fdname="a")
        passing(program.qmp, [there.fileno()], "getfd", fdname="b")
    program.qmp.command("add_client", protocol="c", fdname="a")
    client = QmpClient(here)
    assert client.command("query-name") == {}
    with pytest.raises(QmpError, match=r"^failed to add client$"):
        program.qmp.command("add_client", protocol="c", fdname="b")
    client.close()


SCRIPT: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("getfd", {"fdname": "1x"}, "null"),
    ("getfd", {"fdname": ""}, "null"),
    ("closefd", {"fdname": ""}, ""),
    ("getfd", {"fdname": "é"}, "null"),
    ("getfd", {}, "null"),
    ("getfd", {"fdname": "x"}, ""),
    ("add-fd", {"fdset-id": -1}, "null"),
    ("add-fd", {"fdset-id": 2, "opaque": "two"}, "null"),
    ("add-fd", {}, "null"),
    ("add-fd", {}, "null"),
    ("add-fd", {"fdset-id": 2}, "null"),
    ("query-fdsets", {}, ""),
    ("remove-fd", {"fdset-id": 9}, ""),
    ("remove-fd", {"fdset-id": 2, "fd": 99999}, ""),
    ("remove-fd", {"fdset-id": 2}, ""),
    ("remove-fd", {"fdset-id": 2}, ""),
    ("query-fdsets", {}, ""),
    ("getfd", {"fdname": "n"}, "null"),
    ("add_client", {"protocol": "nope", "fdname": "n"}, ""),
    ("add_client", {"protocol": "nope", "fdname": "n"}, ""),
    ("getfd", {"fdname": "s"}, "socket"),
    ("add_client", {"protocol": "nope", "fdname": "s"}, ""),
    ("getfd", {"fdname": "s"}, "socket"),
    ("add_client", {"protocol": "null0", "fdname": "s"}, ""),
    ("getfd", {"fdname": "n"}, "null"),
    (
        "chardev-add",
        {
            "id": "c",
            "backend": {
                "type": "socket",
                "data": {"addr": {"type": "fd", "data": {"str": "n"}}, "server": False},
            },
        },
        "",
    ),
    ("closefd", {"fdname": "n"}, ""),
)


def replies(program: Program) -> list[Any]:
    """What is answered to the script; the numbers of descriptors are left out."""
    found: list[Any] = []
    ours, theirs = socket.socketpair()
    with ours, theirs, opened("/dev/null", os.O_RDWR) as null:
        fcntl.fcntl(null, fcntl.F_SETFL, 0)
        for name, arguments, what in SCRIPT:
            fds = {"null": [null], "socket": [theirs.fileno()], "": []}[what]
            request = json.dumps({"execute": name, "arguments": arguments}).encode()
            if fds:
                socket.send_fds(program.qmp.socket, [request], fds)
            else:
                program.qmp.send(request)
            reply = program.qmp.reply()
            result = reply.get("return")
            if isinstance(result, dict) and "fd" in result:
                result["fd"] = "N"
            for each in result if isinstance(result, list) else ():
                each["fds"] = [{**fd, "fd": "N"} for fd in each["fds"]]
            found.append((name, arguments, reply))
    return found


@pytest.mark.differential
def test_the_same_answers_as_qemu(daemon: Starter, reference: Starter) -> None:
    options = (*NONE, "-chardev", "null,id=null0")
    assert replies(daemon(*options)) == replies(reference(*options))


@pytest.mark.differential
@pytest.mark.parametrize(
    "text",
    [
        "fd=0,set=1",
        "set=1",
        "fd=-1,set=1",
        "fd=x,set=1",
        "fd=FD",
        "fd=FD,set=-1",
        "fd=FD,set=1,foo=1",
        "fd=999999",
    ],
)
def test_what_the_command_line_refuses(daemon: Starter, reference: Starter, text: str) -> None:
    with opened("/dev/null", os.O_RDWR) as null:
        words = (*NONE, "-add-fd", text.replace("FD", str(null)))
        complaints = []
        for start in (daemon, reference):
            program = start(*words, qmp=False, pass_fds=[null])
            assert program.wait() == 1
            complaints.append(program.stderr.replace(program.command[0], "PROGRAM"))
    assert complaints[0] == complaints[1]


def passing_line(client: Console, fds: list[int], line: str) -> str:
    """Run a line of the human monitor that descriptors come with; what it prints."""
    socket.send_fds(client.socket, [f"{line}\n".encode()], fds)
    text = client.expect("(qemu) ")
    return text.split("\r\n", 1)[1].removesuffix("(qemu) ").replace("\r\n", "\n")


def test_the_human_monitor_takes_descriptors_too(daemon: Starter, tmp_path: Path) -> None:
    place = tmp_path / "human"
    program = daemon(*NONE[:-2], "-monitor", f"unix:{place},server=on,wait=off")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(place))
    people = Console(connection)
    people.expect("(qemu) ")
    with opened(tmp_path / "file", os.O_RDWR | os.O_CREAT) as fd:
        assert passing_line(people, [fd], "getfd f") == ""
        assert passing_line(people, [fd], "info status").startswith("VM status")
    # A command that takes none leaves it to the next.
    assert passing_line(people, [], "getfd g") == ""
    assert passing_line(people, [], "closefd g") == ""
    assert passing_line(people, [], "getfd g") == "Error: No file descriptor supplied via SCM_RIGHTS\n"
    assert str(tmp_path / "file") in open_descriptors(program)
    # Names are a monitor's own.
    with pytest.raises(QmpError, match="File descriptor named 'f' not found"):
        program.qmp.command("closefd", fdname="f")
    assert passing_line(people, [], "closefd f") == ""
    assert passing_line(people, [], "closefd f") == "Error: File descriptor named 'f' not found\n"
    here, there = socket.socketpair()
    with there:
        assert passing_line(people, [there.fileno()], "getfd s") == ""
    assert passing_line(people, [], "chardev-add socket,id=c,fd=s") == ""
    program.qmp.command("monitor-add", id="m", chardev="c")
    QmpClient(here).close()
    with opened(tmp_path / "file", os.O_RDWR | os.O_CREAT) as fd:
        assert passing(program.qmp, [fd], "human-monitor-command", command_line="getfd h") == ""
    program.qmp.command("closefd", fdname="h")
    people.close()
    program.qmp.command("query-name")
    assert str(tmp_path / "file") not in open_descriptors(program)


def test_what_the_process_itself_writes_and_reads_may_be_in_a_set(daemon: Starter, tmp_path: Path) -> None:
    """The log, the events to trace, the options as a file; -add-fd comes before them all."""
    log, events, written = tmp_path / "log", tmp_path / "events", tmp_path / "written"
    events.write_text("# a comment\nhandle_qmp_command\n")
    with (
        opened(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as log_fd,
        opened(events, os.O_RDONLY) as events_fd,
        opened(written, os.O_WRONLY | os.O_CREAT) as written_fd,
    ):
        program = daemon(
            *("-D", "/dev/fdset/1", "-trace", "events=/dev/fdset/2", "-writeconfig", "/dev/fdset/3"),
            *("-add-fd", f"fd={log_fd},set=1", "-add-fd", f"fd={events_fd},set=2"),
            *("-add-fd", f"fd={written_fd},set=3", *NONE),
            pass_fds=[log_fd, events_fd, written_fd],
        )
    program.qmp.command("query-uuid")
    assert '"command": "query-uuid"' in log.read_text()
    assert '[machine]\n  type = "none"' in written.read_text()
    program.qmp.command("remove-fd", {"fdset-id": 1})
    # The set lives as long as its file is written to.
    assert {"fdset-id": 1, "fds": []} in program.qmp.command("query-fdsets")
    with opened(tmp_path / "other", os.O_WRONLY | os.O_APPEND | os.O_CREAT) as fd:
        passing(program.qmp, [fd], "add-fd", fdset_id=5)
    assert program.qmp.command("human-monitor-command", {"command-line": "logfile /dev/fdset/5"}) == ""
    assert 1 not in {each["fdset-id"] for each in program.qmp.command("query-fdsets")}
    assert '"command": "query-fdsets"' in (tmp_path / "other").read_text()
    with pytest.raises(QmpError, match=r"^Error opening logfile /dev/fdset/9: No such file or directory$"):
        program.qmp.command("x-set-log", filename="/dev/fdset/9")

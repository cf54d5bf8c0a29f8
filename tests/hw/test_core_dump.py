"""`dump-guest-memory`: core files that debuggers read, the same as Debian's QEMU writes, and what becomes of those that fail."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.demo import DEMO_GUEST
from qemud.hw.core_file import CoreFile, Region, cut, note
from qemud.machine.memory import RamBlock
from tests.hw.core import Core
from tests.hw.kdump import Kdump, assembled
from tests.programs import QmpClient, QmpError
from tests.system.test_descriptors import passing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

PAGE = 4096
RAM, RAM_SIZE = 0x8000_0000, 32 << 20
ROM, ROM_SIZE = 0x1000, 0xF000
BOARD = ("-machine", "virt", "-m", "32", "-display", "none", "-nodefaults", "-S")
BUSY = "There is a dump in process, please wait."


def ask(program: Program, command: str, **arguments: Any) -> Any:
    try:
        return program.qmp.command(command, arguments)
    except QmpError as error:
        return f"{error.error_class}: {error}"


def dump(program: Program, path: Path, **more: Any) -> Core:
    program.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{path}", **more)
    return Core(path.read_bytes())


def saved(program: Program, path: Path, address: int, size: int) -> bytes:
    program.qmp.command("pmemsave", val=address, size=size, filename=str(path))
    return path.read_bytes()


# -- the file ------------------------------------------------------------------------------------------------------------


PIECES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=4)


@given(PIECES, st.one_of(st.none(), st.tuples(st.integers(0, 16 * PAGE), st.integers(1, 16 * PAGE))))
def test_what_is_read_back_is_what_was_there(
    pieces: list[tuple[int, int]], part: tuple[int, int] | None
) -> None:
    """Any memory with holes, written whole or in part, into a new file or a pipe, is in the file as it was."""
    regions, at = [], 0
    for number, (gap, pages) in enumerate(pieces):
        block = RamBlock(f"block{number}", pages * PAGE)
        block.view[100:105] = b"%5d" % number
        at += gap * PAGE
        regions.append(Region(at, block.size, block, 0))
        at += block.size
    wanted = cut(regions, *part) if part is not None else regions
    expected = []
    for address, size, block, offset in wanted:
        expected.append((address, bytes(block.view[offset : offset + size])))
    core = CoreFile(wanted, [note(1, 0x1234, range(1, 32)), note(2, 0, [0] * 31)])
    contents = []
    for sparse in (False, True):
        core.completed = 0
        with tempfile.TemporaryFile() as file:
            core.write(file.fileno(), sparse=sparse)
            file.seek(0)
            contents.append(file.read())
        assert core.completed == core.total == sum(len(data) for _, data in expected)
    assert contents[0] == contents[1]
    read = Core(contents[0])
    assert [(load.physical, read.memory(load)) for load in read.loads] == expected
    assert read.registers() == [(1, [0x1234, *range(1, 32)]), (2, [0] * 32)]
    for block in {region.block for region in regions}:
        block.close()


def test_pages_that_nobody_touched_stay_so() -> None:
    """Neither the guest's memory nor the file grows for them."""
    block = RamBlock("large", 256 << 20)
    block.view[1 << 20 : (1 << 20) + 4] = b"here"
    before = os.fstat(block.fd).st_blocks
    with tempfile.TemporaryFile() as file:
        CoreFile([Region(0, block.size, block, 0)], []).write(file.fileno(), sparse=True)
        assert os.fstat(file.fileno()).st_size > block.size
        assert os.fstat(file.fileno()).st_blocks * 512 < 1 << 20
    assert os.fstat(block.fd).st_blocks == before
    block.close()


# -- the command ---------------------------------------------------------------------------------------------------------


@pytest.mark.differential
def test_the_same_as_qemu_writes(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    """Program headers and notes, whole and in part, of a machine that has not begun yet."""
    parts: tuple[dict[str, int], ...] = (
        {},
        {"begin": RAM, "length": PAGE},
        {"begin": RAM + 0x1800, "length": 0x3000},
        {"begin": 0, "length": 1 << 40},
        {"begin": 0x8000, "length": RAM - 0x8000 + 5},
        {"begin": RAM + RAM_SIZE - 1, "length": 1},
    )
    firmware = tmp_path / "firmware"
    firmware.write_bytes(bytes(range(256)))
    programs = []
    for number, start in enumerate((daemon, reference)):
        # Flash memory belongs to a device, and is in neither.
        flash = tmp_path / f"flash{number}"
        flash.write_bytes(b"")
        os.truncate(flash, 32 << 20)
        drive = f"if=pflash,unit=1,format=raw,file={flash}"
        programs.append(start(*BOARD, "-bios", str(firmware), "-drive", drive))
    for number, part in enumerate(parts):
        ours, theirs = (dump(program, tmp_path / f"{program.qemud}{number}", **part) for program in programs)
        assert ours.notes == theirs.notes
        # Where a region is cut, QEMU tells virtual addresses that nothing is at.
        assert [each._replace(virtual=0) for each in ours.parts] == [
            each._replace(virtual=0) for each in theirs.parts
        ]
        if not part:
            assert ours.parts == theirs.parts
        assert all(load.virtual == load.physical for load in ours.loads)
        assert ours.sections == theirs.sections
        # All but the length of the header itself.
        assert ours.header[:8] + ours.header[9:] == theirs.header[:8] + theirs.header[9:]
        told = [program.qmp.command("query-dump") for program in programs]
        assert told[0] == told[1]
        for program in programs:
            assert program.qmp.event("DUMP_COMPLETED")["data"]["result"] == program.qmp.command("query-dump")


def test_memory_and_registers(daemon: Starter, tmp_path: Path) -> None:
    """Of a guest that has run: what QMP tells of it, what the file says, and what readelf and gdb find in there."""
    program = daemon(*BOARD, "-kernel", str(DEMO_GUEST), serial=True)
    program.qmp.command("cont")
    program.serial.expect("demo> ")
    program.qmp.events.clear()
    path = tmp_path / "core"
    core = dump(program, path)
    assert [event["event"] for event in program.qmp.events] == ["STOP", "DUMP_COMPLETED", "RESUME"]
    assert path.stat().st_mode & 0o777 == 0o400
    program.qmp.command("stop")
    assert [(load.physical, load.in_memory) for load in core.loads] == [(ROM, ROM_SIZE), (RAM, RAM_SIZE)]

    # The guest has gone on meanwhile; what it was then is told by a dump of one that stands still.
    core = dump(program, tmp_path / "second")
    for load in core.loads:
        assert core.memory(load) == saved(program, tmp_path / "memory", load.physical, load.in_memory)
    told = program.qmp.command("x-query-registers")["registers"]
    named = {each["name"]: each["value"] for each in told}
    [(number, values)] = core.registers()
    assert number == 1
    assert values[0] == named["pc"]
    assert values[1:] == [
        next(value for name, value in named.items() if re.match(rf"x{n}(/|$)", name)) for n in range(1, 32)
    ]
    assert program.qmp.command("query-status") == {"running": False, "status": "paused"}


@pytest.mark.differential
def test_compressed_dumps(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    """Both forms: the same headers and pages as QEMU's, and the contents that there are."""
    firmware = tmp_path / "firmware"
    firmware.write_bytes(random.Random(1).randbytes(20000))
    dumps = []
    for start in (daemon, reference):
        program = start(*BOARD, "-bios", str(firmware))
        for form in ("kdump-zlib", "kdump-raw-zlib"):
            path = tmp_path / f"{form}-{program.qemud}"
            arguments = {"paging": False, "protocol": f"file:{path}", "format": form}
            program.qmp.command("dump-guest-memory", arguments)
            content = path.read_bytes()
            dumps.append(Kdump(content if "raw" in form else assembled(content)))
            whole = {"status": "completed", "completed": RAM_SIZE + ROM_SIZE, "total": RAM_SIZE + ROM_SIZE}
            assert program.qmp.command("query-dump") == whole
            for address, size in ((ROM, ROM_SIZE), (RAM, RAM_SIZE)):
                assert dumps[-1].memory(address, size) == saved(program, tmp_path / "saved", address, size)
    ours, raw, *theirs = dumps
    assert ours.content == raw.content
    assert ours.machine == b"riscv64"
    for each in theirs:
        assert (ours.fields, ours.sub_header) == (each.fields, each.sub_header)
        assert (ours.notes, ours.maps, ours.pages) == (each.notes, each.maps, each.pages)


def test_memory_in_a_file_of_the_user(daemon: Starter, tmp_path: Path) -> None:
    """Written to that file or not: what the guest sees is what is dumped."""
    for share in ("on", "off"):
        behind = tmp_path / f"memory-{share}"
        backend = f"memory-backend-file,id=m,size=32M,mem-path={behind},share={share}"
        program = daemon(
            *BOARD, "-object", backend, "-machine", "memory-backend=m", "-kernel", str(DEMO_GUEST)
        )
        core = dump(program, tmp_path / f"core-{share}")
        assert core.memory(core.loads[1]) == saved(program, tmp_path / "saved", RAM, RAM_SIZE)
        assert any(core.memory(core.loads[1]))


@pytest.mark.needs("readelf", "gdb-multiarch")
def test_debuggers_read_it(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*BOARD, "-kernel", str(DEMO_GUEST))
    path = tmp_path / "core"
    core = dump(program, path)
    told = subprocess.run(["readelf", "-aW", path], capture_output=True, text=True, check=True)
    assert not told.stderr
    assert "CORE (Core file)" in told.stdout
    assert "NT_PRSTATUS" in told.stdout
    script = ("set architecture riscv:rv64", f"target core {path}", "info registers pc", f"x/4xb {RAM:#x}")
    words = [word for line in script for word in ("-ex", line)]
    said = subprocess.run(
        ["gdb-multiarch", "-nx", "-batch", *words], capture_output=True, text=True, check=True
    )
    [(_, values)] = core.registers()
    assert re.search(rf"^pc\s+{values[0]:#x}\b", said.stdout, re.MULTILINE), said
    first = core.memory(core.loads[1])[:4]
    assert "\t".join(f"0x{byte:02x}" for byte in first) in said.stdout


@pytest.mark.differential
def test_the_same_refusals(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    script: tuple[tuple[str, dict[str, Any]], ...] = (
        ("query-dump", {}),
        ("dump-guest-memory", {"paging": False, "protocol": "nope:"}),
        ("dump-guest-memory", {"paging": False, "protocol": "file"}),
        ("dump-guest-memory", {"paging": False, "protocol": ""}),
        ("dump-guest-memory", {"paging": False, "protocol": "fd:none"}),
        ("dump-guest-memory", {"paging": False, "protocol": f"file:{tmp_path}/none/x"}),
        ("dump-guest-memory", {"paging": False, "protocol": f"file:{folder}"}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:/dev/fdset/7"}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:/dev/fdset/x"}),
        ("dump-guest-memory", {"paging": False, "protocol": "x", "begin": 1}),
        ("dump-guest-memory", {"paging": False, "protocol": "x", "length": 1}),
        ("dump-guest-memory", {"paging": False, "protocol": "x", "format": "nope"}),
        ("dump-guest-memory", {"protocol": "x"}),
        ("dump-guest-memory", {"paging": True, "protocol": "x", "format": "kdump-zlib"}),
        ("dump-guest-memory", {"paging": False, "protocol": "x", "format": "kdump-zlib", "begin": 1}),
        ("dump-guest-memory", {"paging": False, "protocol": "x", "format": "kdump-raw-zlib", "length": 1}),
        ("dump-guest-memory", {"paging": False, "protocol": "x", "format": "kdump-zlib"}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:/dev/full", "format": "kdump-zlib"}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:/dev/full", "format": "kdump-raw-zlib"}),
        ("query-dump", {}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:FILE", "begin": 0, "length": 0}),
        ("query-dump", {}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:FILE", "begin": 0, "length": 1}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:FILE", "begin": RAM, "length": -1}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:FILE", "begin": 1 << 62, "length": 5}),
        ("query-dump", {}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:/dev/full"}),
        ("query-dump", {}),
        ("dump-guest-memory", {"paging": True, "protocol": "file:FILE", "begin": RAM, "length": 1}),
        ("query-dump", {}),
        ("human-monitor-command", {"command-line": "info dump"}),
        ("human-monitor-command", {"command-line": "dump-guest-memory"}),
        ("human-monitor-command", {"command-line": "dump-guest-memory FILE 0"}),
        ("human-monitor-command", {"command-line": "dump-guest-memory -p FILE 0x80000000 4096"}),
        ("human-monitor-command", {"command-line": "dump-guest-memory -z FILE 0 4096"}),
        ("human-monitor-command", {"command-line": "dump-guest-memory -z -R FILE"}),
        ("human-monitor-command", {"command-line": "dump-guest-memory -d /none/x"}),
        ("query-dump", {}),
    )
    answers = []
    for start in (daemon, reference):
        program = start(*BOARD)
        file = tmp_path / f"file{program.qemud}"
        found = []
        for command, arguments in script:
            given = {
                name: value.replace("FILE", str(file)) if isinstance(value, str) else value
                for name, value in arguments.items()
            }
            answer = ask(program, command, **given)
            file.unlink(missing_ok=True)
            found.append((command, arguments, answer))
        events = [event for event in program.qmp.events if event["event"] == "DUMP_COMPLETED"]
        found.append(("events", {}, [event["data"] for event in events]))
        answers.append(found)
    for here, there in zip(*answers, strict=True):
        assert here == there


@pytest.mark.differential
def test_no_memory_at_all(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    """The file is made all the same."""
    for start in (daemon, reference):
        program = start("-machine", "none", "-display", "none", "-nodefaults")
        path = tmp_path / f"core{program.qemud}"
        answer = ask(program, "dump-guest-memory", paging=False, protocol=f"file:{path}")
        assert answer == "GenericError: dump: no guest memory to dump"
        assert path.stat().st_size == 0
        assert program.qmp.command("query-dump") == {"status": "failed", "completed": 0, "total": 0}


def test_a_part_for_people(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*BOARD, "-kernel", str(DEMO_GUEST))
    path = tmp_path / "core"
    line = f"dump-guest-memory {path} {RAM:#x} {PAGE}"
    assert ask(program, "human-monitor-command", **{"command-line": line}) == ""
    core = Core(path.read_bytes())
    assert [(load.physical, load.in_file) for load in core.loads] == [(RAM, PAGE)]
    assert core.memory(core.loads[0]) == saved(program, tmp_path / "memory", RAM, PAGE)


# -- in the background ---------------------------------------------------------------------------------------------------


def test_a_pipe_takes_the_flattened_form_only(daemon: Starter) -> None:
    program = daemon(*BOARD)
    slow = Slow(program, detach=False)
    arguments = {"paging": False, "protocol": "fd:dump", "format": "kdump-raw-zlib"}
    assert ask(program, "dump-guest-memory", **arguments) == (
        "GenericError: kdump-raw formats require a seekable file"
    )
    assert slow.read() == b""
    slow = Slow(program, detach=False)
    program.qmp.command("dump-guest-memory", {**arguments, "format": "kdump-zlib", "detach": True})
    assert Kdump(assembled(slow.read())).pages[0] == ROM // PAGE


class Slow:
    """A dump into a pipe that nobody reads yet."""

    def __init__(self, program: Program, *, detach: bool = True) -> None:
        self.program = program
        self.reader, writer = os.pipe()
        try:
            passing(program.qmp, [writer], "getfd", fdname="dump")
        finally:
            os.close(writer)
        if detach:
            program.qmp.command("dump-guest-memory", paging=False, protocol="fd:dump", detach=True)

    def read(self) -> bytes:
        with open(self.reader, "rb") as file:
            return file.read()


def running(daemon: Starter) -> Program:
    program = daemon(*BOARD, "-kernel", str(DEMO_GUEST), serial=True)
    program.qmp.command("cont")
    program.serial.expect("demo> ")
    program.qmp.events.clear()
    return program


def test_in_the_background(daemon: Starter) -> None:
    """The monitor answers, the guest stands still and nobody can change that, until all is written."""
    program = running(daemon)
    slow = Slow(program)
    assert program.qmp.event("STOP")
    assert program.qmp.command("query-status") == {"running": False, "status": "save-vm"}
    state = program.qmp.command("query-dump")
    assert (state["status"], state["total"]) == ("active", RAM_SIZE + ROM_SIZE)
    assert state["completed"] < state["total"]
    assert ask(program, "cont") == f"GenericError: {BUSY}"
    assert ask(program, "dump-guest-memory", paging=False, protocol="nope") == f"GenericError: {BUSY}"
    told = program.qmp.command("human-monitor-command", {"command-line": "info dump"})
    assert re.fullmatch(r"Status: active\r\nFinished: \d\.\d\d %\r\n", told)
    program.qmp.command("stop")
    core = Core(slow.read())
    assert program.qmp.event("DUMP_COMPLETED")["data"] == {
        "result": {"status": "completed", "completed": RAM_SIZE + ROM_SIZE, "total": RAM_SIZE + ROM_SIZE}
    }
    assert program.qmp.event("RESUME")
    assert len(core.memory(core.loads[1])) == RAM_SIZE
    program.serial.command("help")
    assert program.qmp.command("query-status") == {"running": True, "status": "running"}


def test_a_reader_that_goes_away(daemon: Starter) -> None:
    program = running(daemon)
    slow = Slow(program)
    headers = 0
    while headers < 2 * PAGE:  # they are through, and memory is what fails
        headers += len(os.read(slow.reader, PAGE))
    os.close(slow.reader)
    data = program.qmp.event("DUMP_COMPLETED")["data"]
    assert data["error"] == "dump: failed to save memory: Broken pipe"
    assert data["result"]["status"] == "failed"
    assert program.qmp.command("query-dump") == data["result"]
    program.qmp.event("RESUME")
    program.serial.command("help")


def test_a_client_that_goes_away(daemon: Starter, tmp_path: Path) -> None:
    """What it began is done to its end."""
    address = str(tmp_path / "qmp")
    program = daemon(*BOARD, "-qmp", f"unix:{address},server=on,wait=off")
    program.qmp.command("cont")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        begun_by(program, QmpClient(connection))


def begun_by(program: Program, other: QmpClient) -> None:
    """A dump whose client goes away."""
    reader, writer = os.pipe()
    passing(other, [writer], "getfd", fdname="dump")
    os.close(writer)
    other.send(b'{"execute": "dump-guest-memory", "arguments": {"paging": false, "protocol": "fd:dump"}}\n')
    program.qmp.event("STOP")
    other.close()
    content: list[bytes] = []

    def read() -> None:
        with open(reader, "rb") as file:
            content.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    assert program.qmp.event("DUMP_COMPLETED")["data"]["result"]["status"] == "completed"
    program.qmp.event("RESUME")
    thread.join()
    assert len(Core(content[0]).loads) == 2


def test_the_end_in_the_middle_of_it(daemon: Starter) -> None:
    """A pipe that nobody reads does not keep the emulator."""
    program = running(daemon)
    slow = Slow(program)
    program.qmp.command("quit")
    assert program.wait() == 0
    os.close(slow.reader)


def test_a_reset_in_the_middle_of_it(daemon: Starter) -> None:
    program = running(daemon)
    slow = Slow(program)
    program.qmp.command("system_reset")
    assert Core(slow.read()).loads
    program.qmp.event("RESUME")
    program.serial.expect("demo> ")


def test_a_file_that_cannot_be_written(daemon: Starter, tmp_path: Path) -> None:
    """It stays with what was written, and the next dump is a new one."""
    program = daemon(*BOARD)
    path = tmp_path / "core"
    nowhere = ask(program, "dump-guest-memory", paging=False, protocol=f"file:{path}", begin=-1, length=1)
    assert nowhere == "GenericError: dump: no guest memory to dump"
    assert path.stat().st_size == 0
    path.chmod(0o600)
    path.write_bytes(b"x" * 100)
    reader = os.open(path, os.O_RDONLY)
    passing(program.qmp, [reader], "getfd", fdname="dump")
    os.close(reader)
    answer = ask(program, "dump-guest-memory", paging=False, protocol="fd:dump")
    assert answer == "GenericError: dump: failed to write elf header: Bad file descriptor"
    assert path.read_bytes() == b"x" * 100
    assert program.qmp.command("query-dump")["status"] == "failed"
    assert dump(program, path).loads

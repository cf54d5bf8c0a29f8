"""Snapshots of a machine as its clients see them: jobs, events, errors, what the images have then."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud.demo import DEMO_GUEST
from tests.programs import QEMUD, Program, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

DEMO = ("-machine", "virt", "-m", "32", "-display", "none", "-kernel", str(DEMO_GUEST))
MIB = 1 << 20


def make(path: Path, size: int = MIB, **options: object) -> Path:
    text = ",".join(f"{name}={value}" for name, value in options.items())
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *(["-o", text] if text else [])]
    subprocess.run([*command, str(path), str(size)], check=True)
    return path


def node(path: Path, name: str, driver: str = "qcow2") -> tuple[str, str]:
    return "-blockdev", json.dumps(
        {
            "driver": driver,
            "node-name": name,
            "file": {"driver": "file", "filename": str(path), "node-name": f"{name}-file"},
        }
    )


def check(*paths: Path) -> None:
    for path in paths:
        done = subprocess.run(["qemu-img", "check", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def listed(path: Path) -> list[tuple[str, int]]:
    done = subprocess.run(["qemu-img", "info", "--output=json", str(path)], capture_output=True, check=True)
    return [(each["name"], each["vm-state-size"]) for each in json.loads(done.stdout).get("snapshots", [])]


def job(program: Program, command: str, **arguments: Any) -> tuple[list[str], str | None]:
    """Run a job to its end: what was told meanwhile, and what it failed of."""
    program.qmp.events.clear()
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    program.qmp.command(command, {"job-id": "j", **named})
    told: list[str] = []
    while not told or told[-1] != "concluded":
        event = program.qmp.events.pop(0) if program.qmp.events else program.qmp.message()
        told.append(event["data"]["status"] if event["event"] == "JOB_STATUS_CHANGE" else event["event"])
    [info] = [each for each in program.qmp.command("query-jobs") if each["id"] == "j"]
    assert (info["type"], info["status"]) == (command, "concluded")
    assert (info["current-progress"], info["total-progress"]) == (1, 1)
    program.qmp.command("job-dismiss", id="j")
    return told, info.get("error")


DONE = ["created", "running", "waiting", "pending", "concluded"]
DONE_RUNNING = ["created", "running", "STOP", "RESUME", "waiting", "pending", "concluded"]
FAILED = ["created", "running", "aborting", "concluded"]


def poke(program: Program, value: int) -> None:
    program.serial.command(f"poke 0x80400000 {value}")


def peek(program: Program) -> int:
    [line] = program.serial.command("peek 0x80400000")
    return int(line.removeprefix("peek: "), 0)


def test_there_and_back_again(daemon: Starter, tmp_path: Path) -> None:
    """Memory, time and both disks are what they were; then in another process; then nothing is left."""
    a, b = make(tmp_path / "a.qcow2"), make(tmp_path / "b.qcow2", 3 * MIB, cluster_size=4096)
    options = (*DEMO, *node(a, "a"), *node(b, "b"), "-device", "virtio-blk-device,drive=a")
    both = {"devices": ["a", "b"], "vmstate": "a"}
    program = daemon(*options, serial=True)
    program.serial.expect("demo> ")
    poke(program, 1)
    assert job(program, "snapshot-save", tag="one", **both) == (DONE_RUNNING, None)
    poke(program, 2)
    assert job(program, "snapshot-save", tag="two", devices=["b", "a"], vmstate="b") == (DONE_RUNNING, None)
    poke(program, 3)
    sizes = dict(listed_by(program))
    assert sizes["one"] > 100_000
    for _ in range(2):
        assert job(program, "snapshot-load", tag="one", **both) == (DONE_RUNNING, None)
        assert peek(program) == 1
        assert program.serial.command("sum 2")[0].endswith("2 of 2 right")
        assert job(program, "snapshot-load", tag="two", devices=["a", "b"], vmstate="b") == (
            DONE_RUNNING,
            None,
        )
        assert peek(program) == 2
    # A machine that is stopped stays so.
    program.qmp.command("stop")
    assert job(program, "snapshot-load", tag="one", **both) == (DONE, None)
    assert program.qmp.command("query-status") == {"running": False, "status": "paused"}
    assert job(program, "snapshot-save", tag="three", **both) == (DONE, None)
    program.qmp.command("quit")
    assert program.wait() == 0
    check(a, b)
    assert [name for name, _ in listed(a)] == ["one", "two", "three"]
    assert [size > 0 for _, size in listed(a)] == [True, False, True]
    assert [size > 0 for _, size in listed(b)] == [False, True, False]

    program = daemon(*options, "-loadvm", "one", serial=True)
    program.serial.send(b"\r")
    program.serial.expect("demo> ")
    assert peek(program) == 1
    assert job(program, "snapshot-delete", tag="one", devices=["a", "b"]) == (DONE, None)
    assert job(program, "snapshot-delete", tag="two", devices=["a"]) == (DONE, None)
    assert job(program, "snapshot-delete", tag="two", devices=["a"]) == (DONE, None)
    program.qmp.command("quit")
    assert program.wait() == 0
    check(a, b)
    assert [name for name, _ in listed(a)] == ["three"]
    assert [name for name, _ in listed(b)] == ["two", "three"]


def listed_by(program: Program) -> list[tuple[str, int]]:
    """What the program tells of the snapshots that all disks have."""
    told = program.qmp.command("x-query-snapshots")
    assert told["partial"] == []
    return [(each["name"], each["vm-state-size"]) for each in told["common"]]


def human(program: Program, line: str) -> str:
    text: str = program.qmp.command("human-monitor-command", {"command-line": line})
    return text.replace("\r", "")


def test_by_hand(daemon: Starter, tmp_path: Path) -> None:
    a = make(tmp_path / "a.qcow2")
    program = daemon(*DEMO, "-drive", f"if=none,id=hd,file={a}", serial=True)
    program.serial.expect("demo> ")
    assert human(program, "info snapshots") == "There is no snapshot available.\n"
    poke(program, 1)
    assert human(program, "savevm one") == ""
    assert [event["event"] for event in program.qmp.events] == ["STOP", "RESUME"]
    poke(program, 2)
    assert human(program, "loadvm one") == ""
    assert peek(program) == 1
    poke(program, 5)
    assert human(program, "savevm one") == ""
    assert human(program, "savevm") == ""
    poke(program, 6)
    assert human(program, "loadvm one") == ""
    assert peek(program) == 5
    lines = human(program, "info snapshots").split("\n")
    assert lines[:2] == [
        "List of snapshots present on all disks:",
        "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT",
    ]
    assert re.fullmatch(
        r"--      one +[\d.]+ [KM]iB \d{4}-\d\d-\d\d \d\d:\d\d:\d\d +0000:\d\d:\d\d\.\d{3}         --",
        lines[2],
    )
    assert re.match(r"--      vm-\d{14} ", lines[3])
    assert human(program, "delvm one") == ""
    assert human(program, "loadvm one") == "Error: Snapshot 'one' does not exist in one or more devices\n"
    assert program.qmp.command("query-status") == {"running": False, "status": "restore-vm"}
    program.qmp.command("cont")
    assert peek(program) == 5
    program.qmp.command("quit")
    assert program.wait() == 0
    check(a)


def test_a_guest_that_has_switched_itself_off(daemon: Starter, tmp_path: Path) -> None:
    """What it was doing is saved as well: nothing goes on that has ended; and another state brings it back to life."""
    a = make(tmp_path / "a.qcow2")
    program = daemon(*DEMO, *node(a, "a"), "-no-shutdown", serial=True)
    program.serial.expect("demo> ")
    given = {"vmstate": "a", "devices": ["a"]}
    assert job(program, "snapshot-save", tag="on", **given)[1] is None
    program.serial.send(b"poweroff\r")
    program.qmp.event("STOP")
    assert job(program, "snapshot-save", tag="off", **given) == (DONE, None)
    assert job(program, "snapshot-load", tag="on", **given) == (DONE, None)
    assert program.qmp.command("query-status") == {"running": False, "status": "paused"}
    program.qmp.command("cont")
    program.serial.send(b"\r")
    program.serial.expect("demo> ")
    told, error = job(program, "snapshot-load", tag="off", **given)
    assert (told, error) == (["created", "running", "STOP", "waiting", "pending", "concluded"], None)
    assert program.qmp.command("query-status") == {"running": False, "status": "shutdown"}


def test_another_machine_refuses(daemon: Starter, tmp_path: Path) -> None:
    """In a sentence, and before anything has changed."""
    a = make(tmp_path / "a.qcow2")
    program = daemon(*DEMO, *node(a, "a"), serial=True)
    program.serial.expect("demo> ")
    given = {"tag": "one", "vmstate": "a", "devices": ["a"]}
    assert job(program, "snapshot-save", **given)[1] is None
    program.qmp.command("quit")
    assert program.wait() == 0
    for options, reason in (
        (("-m", "64"), "saved memory 'riscv_virt_board.ram' has 0x2000000 bytes at 0x80000000, here"),
        (("-machine", "virt,aclint=on"), "saved state has no '/machine/sswi0', which this machine has"),
        (("-device", "virtio-rng-device,id=r"), "saved state has no '/machine/peripheral/r', which this"),
    ):
        program = daemon(*DEMO, *node(a, "a"), *options, serial=True)
        program.serial.expect("demo> ")
        poke(program, 9)
        told, error = job(program, "snapshot-load", **given)
        assert told == ["created", "running", "STOP", "aborting", "concluded"]
        assert error is not None
        assert error.startswith(f"Error -22 while loading VM state: {reason}")
        assert program.qmp.command("query-status") == {"running": False, "status": "restore-vm"}
        program.qmp.command("cont")
        assert peek(program) == 9
        program.qmp.command("quit")
        assert program.wait() == 0
    with Program(QEMUD, *DEMO, *node(a, "a"), "-m", "64", "-loadvm", "one", qmp=False) as program:
        assert program.wait() == 1
        assert "while loading VM state: saved memory" in program.stderr
    with Program(QEMUD, *DEMO, *node(a, "a"), "-loadvm", "nope", qmp=False) as program:
        assert program.wait() == 1
        assert program.stderr.endswith(": Snapshot 'nope' does not exist in one or more devices\n")
    with Program(QEMUD, *DEMO, "-preconfig", "-loadvm", "nope", qmp=False) as program:
        assert program.wait() == 1
        assert program.stderr.endswith(": 'preconfig' and 'loadvm' options are mutually exclusive\n")
    check(a)


def test_flash_memory_goes_back_with_its_drive(daemon: Starter, tmp_path: Path) -> None:
    """What the machine has read of a drive is not what the drive has afterwards."""
    flash = make(tmp_path / "flash.qcow2", 32 * MIB)
    options = (*DEMO, "-drive", f"if=pflash,index=1,format=qcow2,file={flash}", "-S")
    told = []
    for pattern, lines in ((0x41, ("savevm one",)), (0x42, ("xp /1xw 0x22000000", "loadvm one"))):
        subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", f"write -q -P {pattern} 0 4096", str(flash)], check=True
        )
        program = daemon(*options)
        told += [human(program, line).strip() for line in (*lines, "xp /1xw 0x22000000")]
        program.qmp.command("quit")
        assert program.wait() == 0
    seen = "0000000022000000: 0x"
    assert told == ["", f"{seen}41414141", f"{seen}42424242", "", f"{seen}41414141"]
    check(flash)


def test_while_others_work(daemon: Starter, tmp_path: Path) -> None:
    """Jobs are held meanwhile, an export's client waits; a disk that is being copied does not go back."""
    a, b = make(tmp_path / "a.qcow2", 64 * MIB), make(tmp_path / "b.qcow2", 64 * MIB)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 3 0 64M", str(a)], check=True)
    program = daemon(*DEMO, *node(a, "a"), *node(b, "b"), "-S")
    given = {"tag": "one", "vmstate": "a", "devices": ["a"]}
    program.qmp.command(
        "blockdev-mirror", {"job-id": "m", "device": "a", "target": "b", "sync": "full", "speed": MIB}
    )
    told, error = job(program, "snapshot-save", **given)
    assert error is None
    assert told == ["created", "running", "paused", "running", "waiting", "pending", "concluded"]
    assert job(program, "snapshot-load", **given)[1] == (
        "Could not load snapshot 'one' on 'a': Node 'a' is busy: block device is in use by block job: mirror"
    )
    program.qmp.command("block-job-cancel", device="m", force=True)
    program.qmp.event("BLOCK_JOB_CANCELLED")
    socket = tmp_path / "nbd"
    program.qmp.command("nbd-server-start", addr={"type": "unix", "data": {"path": str(socket)}})
    program.qmp.command("block-export-add", {"type": "nbd", "id": "e", "node-name": "a", "writable": True})
    where = f"nbd+unix:///a?socket={socket}"
    writes = ["-c", "aio_write -q -P 9 0 32M", "-c", "aio_flush", "-c", "write -q -P 8 32M 16M"]
    with subprocess.Popen(["qemu-io", "-f", "raw", where, *writes]) as client:
        assert job(program, "snapshot-save", **{**given, "tag": "two"}) == (DONE, None)
        assert job(program, "snapshot-load", **given) == (DONE, None)
        assert client.wait() == 0
    commands = ["-c", "write -q -P 7 0 16M", "-c", "read -q -P 7 0 16M"]
    subprocess.run(["qemu-io", "-f", "raw", where, *commands], check=True)
    program.qmp.command("quit")
    assert program.wait() == 0
    check(a, b)


def test_not_while_memory_is_dumped(daemon: Starter, tmp_path: Path) -> None:
    """The dump goes into a pipe that nobody reads for a while."""
    a = make(tmp_path / "a.qcow2")
    program = daemon(*DEMO, *node(a, "a"), serial=True)
    program.serial.expect("demo> ")
    given = {"tag": "one", "vmstate": "a", "devices": ["a"]}
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        dump = {"paging": False, "protocol": f"file:{pipe}", "detach": True}
        program.qmp.command("dump-guest-memory", dump)
        told, error = job(program, "snapshot-save", **given)
        assert (told, error) == (FAILED, "There is a dump in process, please wait.")
        assert job(program, "snapshot-load", **given)[1] == ("There is a dump in process, please wait.")
        os.set_blocking(reader, True)
        while os.read(reader, 1 << 20):
            pass
    finally:
        os.close(reader)
    program.qmp.event("DUMP_COMPLETED")
    program.qmp.event("RESUME")
    assert job(program, "snapshot-save", **given) == (DONE_RUNNING, None)


def test_a_disk_that_cannot_be_changed_back(daemon: Starter, tmp_path: Path) -> None:
    """One that others know the changes of; and one that is full."""
    a = make(tmp_path / "a.qcow2")
    program = daemon(*DEMO, *node(a, "a"), "-S")
    given = {"tag": "one", "vmstate": "a", "devices": ["a"]}
    assert job(program, "snapshot-save", **given) == (DONE, None)
    program.qmp.command("block-dirty-bitmap-add", node="a", name="changes")
    assert job(program, "snapshot-load", **given) == (
        FAILED,
        "Could not load snapshot 'one' on 'a': Device has active dirty bitmaps",
    )
    program.qmp.command("block-dirty-bitmap-remove", node="a", name="changes")
    assert job(program, "snapshot-load", **given) == (DONE, None)


@pytest.mark.parametrize(
    ("sector", "reason"),
    [
        (640, "Error while writing VM state: No space left on device"),
        (1280, "Could not create snapshot 'one' on 'a'"),
    ],
)
def test_a_disk_without_room(daemon: Starter, tmp_path: Path, sector: int, reason: str) -> None:
    a, b = make(tmp_path / "a.qcow2"), make(tmp_path / "b.qcow2")
    program = daemon(
        *DEMO, *failing(a, "a", iotype="write", errno=28, sector=sector), *node(b, "b"), serial=True
    )
    program.serial.expect("demo> ")
    poke(program, 4)
    told, error = job(program, "snapshot-save", tag="one", vmstate="a", devices=["b", "a"])
    assert told == ["created", "running", "STOP", "RESUME", "aborting", "concluded"]
    assert error == reason
    assert peek(program) == 4
    assert program.qmp.command("x-query-snapshots") == {"common": [], "partial": []}
    program.qmp.command("quit")
    assert program.wait() == 0
    check(a, b)


def failing(path: Path, name: str, **how: Any) -> tuple[str, str]:
    """A disk whose file fails."""
    rules = {
        "driver": "blkdebug",
        "image": {"driver": "file", "filename": str(path)},
        "inject-error": [{"event": "none", "errno": 5, **how}],
    }
    return "-blockdev", json.dumps({"driver": "qcow2", "node-name": name, "file": rules})


@pytest.mark.parametrize("what", ["disk", "memory"])
def test_half_loaded(daemon: Starter, tmp_path: Path, what: str) -> None:
    """What a disk's error leaves is some of each machine: it does not go on before a reset."""
    a, b = make(tmp_path / "a.qcow2"), make(tmp_path / "b.qcow2")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q 0 64k", str(b)], check=True)
    given = {"tag": "one", "vmstate": "a", "devices": ["a", "b"]}
    program = daemon(*DEMO, *node(a, "a"), *node(b, "b"), serial=True)
    program.serial.expect("demo> ")
    assert job(program, "snapshot-save", **given)[1] is None
    program.qmp.command("quit")
    assert program.wait() == 0
    if what == "disk":
        disks = (*node(a, "a"), *failing(b, "b", iotype="write"))
        reason = "Could not load snapshot 'one' on 'b': Failed to load snapshot: Input/output error"
    else:
        [(_, size)] = listed(a)
        in_memory = (a.read_bytes().index(b"qemudvm\n") + size - 4096) // 512
        disks = (*failing(a, "a", iotype="read", sector=in_memory), *node(b, "b"))
        reason = "Error -5 while loading VM state: Input/output error; the machine has to be reset"
    program = daemon(*DEMO, *disks, serial=True)
    program.serial.expect("demo> ")
    told, error = job(program, "snapshot-load", **given)
    assert told == ["created", "running", "STOP", "aborting", "concluded"]
    assert error == reason
    assert program.qmp.command("query-status") == {"running": False, "status": "internal-error"}
    with pytest.raises(QmpError, match="Resetting the Virtual Machine is required"):
        program.qmp.command("cont")
    program.qmp.command("system_reset")
    program.qmp.command("cont")
    program.serial.expect("demo> ")
    program.qmp.command("quit")
    assert program.wait() == 0
    check(a, b)


def test_what_is_left_of_a_state_is_not_loaded(daemon: Starter, tmp_path: Path) -> None:
    """Bytes of it are changed in the image."""
    a = make(tmp_path / "a.qcow2")
    program = daemon(*DEMO, *node(a, "a"), "-S")
    given = {"tag": "one", "vmstate": "a", "devices": ["a"]}
    assert job(program, "snapshot-save", **given) == (DONE, None)
    program.qmp.command("quit")
    assert program.wait() == 0
    good = a.read_bytes()
    at = good.index(b"qemudvm\n")
    for offset, new, reason in (
        (0, b"QEVM", "the state was not saved by qemud"),
        (11, b"\2", "the saved state has version 2, version 1 is expected"),
        (20, b"\xff", "the header of the saved state is damaged: its checksum is wrong"),
        (70, b"#", "the saved state is damaged: the checksum of its description is wrong"),
    ):
        a.write_bytes(good[: at + offset] + new + good[at + offset + len(new) :])
        program = daemon(*DEMO, *node(a, "a"), "-S")
        assert job(program, "snapshot-load", **given) == (
            FAILED,
            f"Error -22 while loading VM state: {reason}",
        )
        assert program.qmp.command("query-status")["status"] == "prelaunch"
        program.qmp.command("quit")
        assert program.wait() == 0


def test_a_job_that_ends_with_the_process(daemon: Starter, tmp_path: Path) -> None:
    """Nothing is half done, and the end does not wait for ever."""
    a = make(tmp_path / "a.qcow2")
    program = daemon(*DEMO, *node(a, "a"), serial=True)
    program.serial.expect("demo> ")
    start = {
        "execute": "snapshot-save",
        "arguments": {"job-id": "j", "tag": "t", "vmstate": "a", "devices": ["a"]},
    }
    program.qmp.send(json.dumps(start).encode() + b'{"execute":"quit"}')
    assert program.wait() == 0
    check(a)
    assert [name for name, _ in listed(a)] in ([], ["t"])


def test_commands_wait_for_the_machine(daemon: Starter, tmp_path: Path) -> None:
    """What a client sends behind it is done when the job has done its work."""
    a = make(tmp_path / "a.qcow2")
    program = daemon(*DEMO, *node(a, "a"), serial=True)
    program.serial.expect("demo> ")
    given = {"job-id": "j", "tag": "t", "vmstate": "a", "devices": ["a"]}
    second = {"device": "a", "name": "t"}
    for command, arguments in (("snapshot-save", given), ("blockdev-snapshot-internal-sync", second)):
        program.qmp.send(json.dumps({"execute": command, "arguments": arguments}).encode())
    assert program.qmp.reply() == {"return": {}}
    assert program.qmp.reply()["error"]["desc"] == "Snapshot with name 't' already exists on device 'a'"
    program.qmp.send(b'{"execute":"query-status"}')
    assert program.qmp.reply()["return"]["status"] == "running"
    program.qmp.command("job-dismiss", id="j")

"""The life of the process: its start, its files, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import termios
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qemud.daemon import startup
from tests.programs import LIMIT, QEMUD, QmpClient, QmpError
from tests.system.embed import embedded

if TYPE_CHECKING:
    from tests.conftest import Starter

NONE = ("-machine", "none", "-display", "none")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [QEMUD, *arguments], capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("source", ["pipe", "file"])
def test_commands_from_a_script_are_all_answered(tmp_path: Path, source: str):
    """Although the script has ended long before the machine is ready."""
    names = [
        "qmp_capabilities",
        "stop",
        "cont",
        "query-qmp-schema",
        "query-cpus-fast",
        "query-status",
        "quit",
    ]
    text = "".join(json.dumps({"execute": name, "id": name}) for name in names)
    (tmp_path / "script").write_text(text)
    arguments = [QEMUD, "-S", "-display", "none", "-serial", "null", "-bios", "none", "-qmp", "stdio"]
    with (tmp_path / "script").open() as script:
        given: dict[str, Any] = {"input": text} if source == "pipe" else {"stdin": script}
        done = subprocess.run(arguments, **given, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [message["id"] for message in messages if "return" in message] == names


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_the_process_cleanly(daemon: Starter, number: signal.Signals):
    program = daemon(*NONE)
    program.process.send_signal(number)
    event = program.qmp.event("SHUTDOWN")
    assert event["data"] == {"guest": False, "reason": "host-signal"}
    assert program.wait() == 0
    assert f"terminating on signal {number.value} from pid {os.getpid()} (" in program.stderr


def test_who_reads_late_gets_all_answers(daemon: Starter):
    """What was answered before the end waits behind a long answer that its client has not read yet."""
    here, there = socket.socketpair()
    with here, there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        monitor = ("-chardev", f"socket,id=c,fd={there.fileno()}", "-mon", "chardev=c,mode=control")
        program = daemon(*NONE, *monitor, pass_fds=[there.fileno()])
        there.close()
        for name in ("qmp_capabilities", "query-qmp-schema", "quit"):
            here.sendall(json.dumps({"execute": name}).encode())
        program.qmp.event("SHUTDOWN")
        here.settimeout(LIMIT)
        with here.makefile() as lines:
            messages = [next(iter(json.loads(line))) for line in lines]
    assert messages == ["QMP", "return", "return", "timestamp", "return"]
    assert program.wait() == 0


def test_an_interrupt_before_all_that_shows_no_traceback(tmp_path: Path):
    fifo = tmp_path / "events"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [QEMUD, *NONE, "-trace", f"events={fifo}"], stderr=subprocess.PIPE, text=True
    ) as process:
        writer = os.open(fifo, os.O_WRONLY)  # waits for who reads
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
        os.close(writer)
    assert (process.returncode, said) == (-signal.SIGINT, "")


def test_a_crash_of_native_code_leaves_its_whereabouts_in_the_log(tmp_path: Path):
    log = tmp_path / "log"
    arguments = (*NONE, "-qmp", "stdio", "-D", str(log))
    with subprocess.Popen([QEMUD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write(b'{"execute": "qmp_capabilities"}')
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGSEGV)
        assert process.wait(LIMIT) == -signal.SIGSEGV
    text = log.read_text()
    assert text.startswith("Fatal Python error: Segmentation fault")
    assert "thread.py" in text  # where the machine thread was


def test_a_signal_ends_what_waits_for_its_first_client(tmp_path: Path):
    sock = tmp_path / "qmp"
    with subprocess.Popen(
        [QEMUD, *NONE, "-qmp", f"unix:{sock},server=on"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "waiting for connection" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    assert not sock.exists()


def test_a_signal_ends_what_waits_for_a_kernel(daemon: Starter, tmp_path: Path):
    fifo, pid_file = tmp_path / "kernel", tmp_path / "pid"
    os.mkfifo(fifo)
    program = daemon("-kernel", str(fifo), "-pidfile", str(pid_file), negotiate=False)
    writer = os.open(
        fifo, os.O_WRONLY
    )  # waits for who reads: the machine thread is caught in a read from now on
    try:
        assert program.terminate() == 0
    finally:
        os.close(writer)
    assert not pid_file.exists()


def test_a_signal_ends_what_nobody_reads(daemon: Starter, tmp_path: Path):
    """Dumps into FIFOs: without a reader it is refused, with one that does not read a pool thread is caught in write(2)."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = daemon("-machine", "virt", "-S", "-serial", "null")
    dump = {"val": 0x8000_0000, "size": 1 << 20, "filename": str(fifo)}
    with pytest.raises(QmpError, match="No such device or address"):
        program.qmp.command("pmemsave", dump)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        program.qmp.send(json.dumps({"execute": "pmemsave", "arguments": dump}).encode())
        assert select.select([reader], [], [], LIMIT)[0]
        assert program.terminate() == 0
    finally:
        os.close(reader)


def test_a_signal_ends_it_even_where_a_shutdown_would_pause(daemon: Starter):
    program = daemon(*NONE, "-no-shutdown")
    assert program.terminate() == 0


@pytest.mark.parametrize("emulator", ["daemon", pytest.param("reference", marks=pytest.mark.differential)])
@pytest.mark.parametrize("machine", ["none", "virt"])
def test_quit_tells_then_answers_and_ends(request: pytest.FixtureRequest, emulator: str, machine: str):
    """What comes behind it is not done."""
    start: Starter = request.getfixturevalue(emulator)
    program = start("-machine", machine, "-bios", "none", "-display", "none", "-nodefaults")
    program.qmp.send(b'{"execute":"stop","id":1}{"execute":"quit","id":2}{"execute":"cont","id":3}')
    told = []
    with contextlib.suppress(EOFError):
        while True:
            told.append(program.qmp.message())
    assert [message.get("event", message.get("id")) for message in told] == ["STOP", 1, "SHUTDOWN", 2]
    assert told[2]["data"] == {"guest": False, "reason": "host-qmp-quit"}
    assert told[3]["return"] == {}
    assert program.wait() == 0


def test_a_machine_thread_that_hangs_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(startup, "PATIENCE", 0.01)
    release = threading.Event()
    with embedded(*NONE) as machine:
        daemon = machine.daemon
        machine.vm.mailboxes.post(release.wait, LIMIT)

        async def end() -> int:
            quitting = asyncio.ensure_future(daemon.dispatcher.execute("quit", {}))
            status: int = await daemon.ended
            assert not quitting.done()
            quitting.cancel()
            return status

        try:
            assert machine.run(end()) == 0
        finally:
            release.set()


def test_the_pid_file_is_written_locked_and_removed(daemon: Starter, tmp_path: Path):
    path = tmp_path / "pid"
    program = daemon(*NONE, "-pidfile", str(path))
    assert path.read_text() == f"{program.process.pid}\n"
    second = run(*NONE, "-pidfile", str(path))
    assert second.returncode == 1
    assert second.stderr == (
        f"{QEMUD}: cannot create PID file: Cannot lock pid file: Resource temporarily unavailable\n"
    )
    assert path.read_text() == f"{program.process.pid}\n"
    program.terminate()
    assert not path.exists()


def test_a_pid_file_is_a_regular_file(tmp_path: Path):
    """It is taken away at the end, and root can take away even /dev/null; to open a FIFO may take for ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        done = run(*NONE, "-pidfile", str(fifo))
    finally:
        os.close(reader)
    assert done.returncode == 1
    assert done.stderr == f"{QEMUD}: cannot create PID file: '{fifo}' is not a regular file\n"
    assert fifo.is_fifo()
    done = run(*NONE, "-pidfile", str(fifo))
    assert (
        done.stderr
        == f"{QEMUD}: cannot create PID file: Could not create '{fifo}': No such device or address\n"
    )


def test_a_pid_file_may_be_a_link(daemon: Starter, tmp_path: Path):
    link, path = tmp_path / "link", tmp_path / "pid"
    link.symlink_to(path)
    program = daemon(*NONE, "-pidfile", str(link))
    assert path.read_text() == f"{program.process.pid}\n"
    program.terminate()
    assert link.is_symlink()
    assert not path.exists()


def test_daemonize_returns_when_it_listens_and_the_pid_file_is_there(tmp_path: Path):
    sock, path = tmp_path / "qmp", tmp_path / "pid"
    done = run(*NONE, "-qmp", f"unix:{sock},server=on,wait=off", "-pidfile", str(path), "-daemonize")
    pid = int(path.read_text())
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert os.getsid(pid) != os.getsid(0)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(sock))
            QmpClient(connection).command("quit")
    finally:
        _wait_for_end(pid)
    assert not path.exists()
    assert not sock.exists()


def test_daemonize_tells_what_went_wrong_and_leaves_nothing(tmp_path: Path):
    path = tmp_path / "pid"
    done = run(*NONE, "-qmp", "unix:/nonexistent/x,server=on,wait=off", "-pidfile", str(path), "-daemonize")
    assert done.returncode == 1
    assert done.stderr == (
        f"{QEMUD}: -qmp unix:/nonexistent/x,server=on,wait=off: "
        "Failed to bind socket to /nonexistent/x: No such file or directory\n"
    )
    assert not path.exists()


def _wait_for_end(pid: int) -> None:
    """Wait for a process that is no child of ours; end it if something above has failed."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([fd], [], [], LIMIT)[0]:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"process {pid} did not end")
    finally:
        os.close(fd)


def test_the_target_comes_from_the_programs_name(tmp_path: Path):
    renamed = tmp_path / "qemud-system-sparc"
    renamed.symlink_to(QEMUD)
    done = subprocess.run([renamed, "-version"], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert done.stderr == f"{renamed}: cannot emulate 'sparc', expected one of: riscv64\n"


def test_standard_streams_may_be_closed(tmp_path: Path):
    """As from a shell's `<&- >&- 2>&-`; otherwise sockets and pipes would take their descriptors, and get messages."""
    path = tmp_path / "pid"
    closed = 'exec "$@" <&- >&- 2>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", closed, "sh", QEMUD, *NONE, "-daemonize", "-pidfile", path], timeout=LIMIT
    )
    assert done.returncode == 0
    pid = int(path.read_text())
    streams = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)]
    os.kill(pid, signal.SIGTERM)
    _wait_for_end(pid)
    assert streams == ["/dev/null"] * 3
    assert subprocess.run(["/bin/sh", "-c", closed, "sh", QEMUD, "-bad"], timeout=LIMIT).returncode == 1


@pytest.mark.parametrize("arguments", [("-help",), ("-version",), ("-machine", "help"), ("-d", "help")])
def test_what_cannot_be_told_is_an_error(arguments: tuple[str, ...]):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [QEMUD, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT
        )
    assert (done.returncode, done.stderr) == (1, f"{QEMUD}: No space left on device\n")


@pytest.mark.parametrize("limit", [8, 12, 16])
def test_without_descriptors_it_says_so(tmp_path: Path, limit: int):
    """Far fewer and not even the interpreter starts."""
    arguments = ["-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off", "-pidfile", f"{tmp_path}/pid"]
    command = [
        "/bin/sh",
        "-c",
        f'ulimit -n {limit} && exec "$@"',
        "sh",
        QEMUD,
        "-display",
        "none",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"{re.escape(QEMUD)}: [^\n]*(Too many open files|descriptors)[^\n]*\n", done.stderr
    ), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nobody_has_to_read_its_messages():
    """Who started it has gone, and with it the other end of standard output and error."""
    reader, writer = os.pipe()
    os.close(reader)
    here, there = socket.socketpair()
    with (
        here,
        there,
        subprocess.Popen(
            [QEMUD, *NONE, "-chardev", f"socket,id=c,fd={there.fileno()}", "-mon", "chardev=c,mode=control"],
            stdout=writer,
            stderr=writer,
            pass_fds=[there.fileno()],
        ) as process,
    ):
        os.close(writer)
        there.close()
        qmp = QmpClient(here)
        assert qmp.command("chardev-add", id="p", backend={"type": "pty", "data": {}})["pty"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


def test_a_second_signal_is_not_told(daemon: Starter):
    program = daemon("-S", "-serial", "null")
    for _ in range(3):
        program.process.send_signal(signal.SIGTERM)
    assert program.wait() == 0
    assert program.stderr.count("terminating on signal") == 1


def test_a_serial_port_on_no_chardev_is_one_message():
    done = run("-serial", "chardev:nope", "-display", "none")
    text = "-serial chardev:nope: could not connect serial device to character backend 'chardev:nope'"
    assert (done.returncode, done.stderr) == (1, f"{QEMUD}: {text}\n")


def test_version_is_read_by_management_tools():
    done = run("-version")
    assert done.returncode == 0
    assert re.fullmatch(r"QEMU emulator version 10\.0\.\d+ \(qemud [^)]+\)\n", done.stdout)


def test_help_names_every_option():
    text = run("-help").stdout
    for option in ("-machine", "-qmp-pretty", "-daemonize", "-D", "-no-shutdown"):
        assert re.search(rf"^{option}\b", text, re.MULTILINE), option


def test_the_demo_runs_in_a_terminal_and_leaves_it_as_it_was():
    """The user's terminal: Ctrl-A x ends the emulator, and echo and line editing are back."""
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    program = subprocess.Popen(
        [Path(QEMUD).with_name("qemud"), "demo"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    try:
        _expect(controller, b"demo> ")
        assert not termios.tcgetattr(terminal)[3] & termios.ECHO
        os.write(controller, b"help\r")
        _expect(controller, b"demo> ")
        os.write(controller, b"\x01x")
        assert program.wait(LIMIT) == 0
        assert termios.tcgetattr(terminal) == before
    finally:
        program.kill()
        program.wait()
        os.close(controller)
        os.close(terminal)


def test_a_guest_that_switches_itself_off_ends_the_demo():
    controller, terminal = pty.openpty()
    program = subprocess.Popen(
        [Path(QEMUD).with_name("qemud"), "demo"], stdin=terminal, stdout=terminal, stderr=terminal
    )
    try:
        _expect(controller, b"demo> ")
        os.write(controller, b"poweroff\r")
        assert program.wait(LIMIT) == 0
    finally:
        program.kill()
        program.wait()
        os.close(controller)
        os.close(terminal)


def _expect(fd: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        if not select.select([fd], [], [], LIMIT)[0]:
            raise AssertionError(f"{text!r} never came; got {seen!r}")
        seen += os.read(fd, 4096)

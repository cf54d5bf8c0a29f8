"""A Linux that works on its disks moves between processes that have the same images, and stays where it is when that fails."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pytest

from tests.guests.disk import COMPILER
from tests.migration.moves import incoming, info, status, steps, switch
from tests.migration.test_snapshots import check, make
from tests.programs import LIMIT, QmpError
from tests.system.debian import small, to_raw
from tests.system.journal import SIZE, holds
from tests.system.linux import ping, run, shell
from tests.system.test_saved_machine import LOADS, progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.needs(COMPILER)]

DEVICES = (
    *("-device", "virtio-blk-device,drive=vda"),
    *("-device", "virtio-scsi-pci,id=scsi", "-device", "scsi-hd,drive=sda,bus=scsi.0"),
    *("-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"),
    *("-device", "virtio-rng-device"),
)
COUNT = 'count() { i=0; while [ -e go ]; do i=$((i+1)); echo "<$i>"; done; }'
"""The guest prints numbers as fast as the line takes them, until the file is gone."""


def machine(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """New images, and the options of every process that is to have the machine."""
    disks = {name: make(folder / f"{name}.qcow2", SIZE) for name in LOADS}
    nodes = []
    for name, path in disks.items():
        file = f"driver=file,filename={path},locking=on,node-name={name}-file"
        nodes += ["-blockdev", file, "-blockdev", f"driver=qcow2,file={name}-file,node-name={name}"]
    return disks, small(*nodes, *DEVICES)


def at_work(daemon: Starter, options: tuple[str, ...]) -> Program:
    """The guest writes to both disks, reads random numbers and has an address."""
    program = daemon(*options, serial=True)
    shell(program)
    run(program, "drivers")
    run(program, "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0")
    for name, load in LOADS.items():
        run(program, f"{load} > {name}.log & until grep -q FLUSHED {name}.log; do sleep 0.1; done")
    run(program, "cat /dev/hwrng > /dev/null &")
    run(program, "x=kept; echo kept > file")
    switch(program, "events", "return-path")
    return program


def waiting(daemon: Starter, options: tuple[str, ...], path: Path) -> Program:
    """Another process with the same images, which waits for the machine at `path`."""
    program = daemon(*options, "-incoming", "defer", serial=True)
    switch(program, "events")
    incoming(program, f"unix:{path}")
    return program


def works(program: Program) -> dict[str, int]:
    """Everything of the guest goes on; what it has written by now."""
    assert run(program, "echo $x; cat file") == ["kept", "kept"]
    ping(program, "10.0.2.2", 2)
    assert run(program, "head -c 16 /dev/hwrng | wc -c") == ["16"]
    written = progress(program)
    assert run(program, "dmesg | grep -c -e Oops -e BUG: -e 'I/O error' -e stall")[-1] == "0"
    return written


def look_at(disks: dict[str, Path], written: dict[str, int]) -> None:
    """The images are whole, and have what the guest has written; nobody has them any more."""
    check(*disks.values())
    for name, path in disks.items():
        holds(to_raw(path).read_bytes(), written[name])


def cannot_write(program: Program) -> None:
    """A process whose machine has left has its disks no more."""
    for command, arguments in (("cont", {}), ("blockdev-set-active", {"node-name": "vda", "active": True})):
        with pytest.raises(QmpError, match=r"Failed to get .* lock"):
            program.qmp.command(command, arguments)
    assert status(program) == "postmigrate"


def numbers(count: int) -> bytes:
    """What the guest prints when it counts so far."""
    return b"".join(b"<%d>\r\n" % number for number in range(1, count + 1))


def whole(text: bytes) -> bool:
    """Whether it is that, up to somewhere."""
    return numbers(text.count(b"<") + 1).startswith(text)


def printed(*programs: Program) -> bytes:
    """What the guest has printed from its first number on, in each process after another."""
    text = b"".join(program.serial.log for program in programs)
    return text[text.index(b"<1>\r") :]


def leave(programs: list[Program]) -> None:
    """The last process but one ends, when all that the guest printed there has come."""
    here, there = programs[-2:]
    there.serial.expect("00>")
    deadline = time.monotonic() + LIMIT
    while not whole(printed(*programs)):
        here.serial.fill(deadline)
    here.qmp.command("quit")
    while not here.serial.closed:
        here.serial.fill(deadline)
    assert here.wait() == 0


def test_there_and_on(daemon: Starter, tmp_path: Path) -> None:
    """While it writes to the disks and to its console: on no side is anything lost, or there twice."""
    disks, options = machine(tmp_path)
    here = at_work(daemon, options)
    run(here, COUNT)
    here.serial.send(b"stty -echo; touch go; count & read line; rm go; wait $!; stty echo; echo do''ne\r")
    here.serial.expect("00>")  # it prints
    programs = [here]
    for name in ("first", "second"):
        there = waiting(daemon, options, tmp_path / name)
        here.qmp.command("migrate", uri=f"unix:{tmp_path / name}")
        told = steps(here)
        assert told[-1] == "MIGRATION completed", info(here)
        assert told.count("STOP") == 1
        assert steps(there)[-1] == "MIGRATION completed"
        assert (status(here), status(there)) == ("postmigrate", "running")
        cannot_write(here)
        programs.append(there)
        leave(programs)
        here = there
    here.serial.send(b"\r")
    here.serial.expect("done\r\n")
    text = printed(*programs).partition(b"done")[0]
    assert text == numbers(text.count(b"<"))
    shell(here)
    written = works(here)
    here.qmp.command("quit")
    assert here.wait() == 0
    look_at(disks, written)


class Proxy:
    """A connection between two processes that carries as much as it is told to."""

    def __init__(self, path: Path, target: Path) -> None:
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def __enter__(self) -> Self:
        self._listener.settimeout(LIMIT)
        self._left = self._listener.accept()[0]
        self._right = socket.socket(socket.AF_UNIX)
        self._right.connect(str(self._target))
        return self

    def __exit__(self, *exception: object) -> None:
        for each in (self._left, self._right, self._listener):
            each.close()

    def carry(self, amount: int) -> None:
        """So many bytes."""
        while amount:
            data = self._left.recv(min(amount, 1 << 16))
            assert data, "who sends has ended the connection"
            self._right.sendall(data)
            amount -= len(data)

    def carry_until(self, stop: socket.socket) -> None:
        """Until there is something to be read from there."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._left, selectors.EVENT_READ)
            selector.register(stop, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(LIMIT)}
                assert ready, "nothing came"
                if stop in ready:
                    return
                self.carry(len(self._left.recv(1 << 16, socket.MSG_PEEK)) or 1)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Inside of this."""
        stop, ours = socket.socketpair()
        with stop, ours:
            thread = threading.Thread(target=self.carry_until, args=(stop,))
            thread.start()
            try:
                yield
            finally:
                ours.send(b".")
                thread.join()

    def carry_until_answer(self) -> None:
        """All that comes, until the other side says that it has everything; that is not carried."""
        self.carry_until(self._right)
        assert self._right.recv(8, socket.MSG_PEEK) == b"qemudan\n"

    def carry_answer(self) -> None:
        """The answer, and nothing after it."""
        self._left.sendall(self._right.recv(64))


def until_stopped(program: Program) -> None:
    """Wait until the guest is stopped for the rest."""
    while program.qmp.event("MIGRATION")["data"]["status"] != "pre-switchover":
        pass


PARTS = (10, 1 << 20, 16 << 20, "pre-switchover", "device", "answer", "go")
"""How far it is when the other side dies: bytes, or a status; all but the answer, or all but the last word."""


def test_the_other_side_is_killed(daemon: Starter, tmp_path: Path) -> None:
    """However far it is, the machine stays where it was, with its disks; and leaves in the end."""
    disks, options = machine(tmp_path)
    here = at_work(daemon, options)
    for part in PARTS:
        there = waiting(daemon, options, tmp_path / f"to-{part}")
        proxy = Proxy(tmp_path / f"from-{part}", tmp_path / f"to-{part}")
        switch(here, "pause-before-switchover", state=isinstance(part, str))
        here.qmp.command("migrate", uri=f"unix:{tmp_path / f'from-{part}'}")
        with proxy:
            if isinstance(part, int):
                proxy.carry(part)
            else:
                with proxy.carrying():
                    until_stopped(here)
                if part != "pre-switchover":
                    here.qmp.command("migrate-continue", state="pre-switchover")
            if part == "device":
                proxy.carry(5000)
            elif part in {"answer", "go"}:
                proxy.carry_until_answer()
            if part == "go":
                proxy.carry_answer()
                assert steps(here)[-1] == "MIGRATION completed"
            there.kill()
        if part == "pre-switchover":
            here.qmp.command("migrate-continue", state="pre-switchover")
        if part == "go":
            # Nobody can know, but whoever has started both.
            assert status(here) == "postmigrate"
            here.qmp.command("cont")
        else:
            assert steps(here)[-1] == "MIGRATION failed"
        assert status(here) == "running"
        progress(here)
    works(here)
    there = waiting(daemon, options, tmp_path / "last")
    switch(here, "pause-before-switchover", state=False)
    here.qmp.command("migrate", uri=f"unix:{tmp_path / 'last'}")
    assert steps(here)[-1] == "MIGRATION completed", info(here)
    assert steps(there)[-1] == "MIGRATION completed"
    here.kill()
    there.serial.send(b"\r")
    shell(there)
    written = works(there)
    there.qmp.command("quit")
    assert there.wait() == 0
    look_at(disks, written)

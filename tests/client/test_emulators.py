"""The same client with qemud and with Debian's QEMU."""

from __future__ import annotations

import asyncio
import socket

import pytest

from qemud.client import Client, CommandNotFound, GenericError
from qemud.client.events import ResumeEvent, ShutdownEvent, StopEvent
from qemud.client.types import (
    ChardevBackendNull,
    ChardevBackendSocket,
    ChardevCommon,
    ChardevSocket,
    RunState,
    SchemaMetaType,
    ShutdownCause,
    SocketAddressLegacyUnix,
    UnixSocketAddress,
)
from tests.client.support import emulator, run
from tests.programs import QEMU, QEMUD

both = pytest.mark.parametrize(
    "program",
    [
        QEMUD,
        pytest.param(QEMU, marks=[pytest.mark.differential, pytest.mark.needs("qemu-system-riscv64")]),
    ],
    ids=["qemud", "qemu"],
)


@both
def test_a_session(program: str) -> None:
    async def test(address: str) -> None:
        async with Client.connect(f"unix:{address}") as qmp:
            assert qmp.version.qemu.major == 10
            assert (await qmp.query_version()).qemu.major == 10
            with qmp.events(StopEvent, ResumeEvent) as events:
                assert (await qmp.query_status()).status is RunState.PRELAUNCH
                await qmp.cont()
                assert (await qmp.query_status()).status is RunState.RUNNING
                await qmp.stop()
                assert isinstance(await events.get(), ResumeEvent)
                assert isinstance(await events.get(), StopEvent)
            commands = {info.name for info in await qmp.query_commands()}
            assert {"query-status", "quit"} <= commands
            schema = await qmp.query_qmp_schema()
            assert any(info.meta_type is SchemaMetaType.COMMAND and info.name == "quit" for info in schema)
            with pytest.raises(CommandNotFound, match="The command no-such has not been found"):
                await qmp.execute("no-such")
            with pytest.raises(GenericError):
                await qmp.qom_get(path="/machine", property="no-such")
            with qmp.events(ShutdownEvent) as shutdowns:
                await qmp.quit()
                assert (await shutdowns.get()).reason is ShutdownCause.HOST_QMP_QUIT
            await qmp.wait_closed()

    with emulator(program, "-machine", "none", "-S") as (running, address):
        run(test(address))
        assert running.wait() == 0


@both
def test_typed_arguments(program: str) -> None:
    async def test(address: str) -> None:
        async with Client.connect(address) as qmp:
            await qmp.chardev_add(id="n", backend=ChardevBackendNull(data=ChardevCommon()))
            listen = UnixSocketAddress(path=address + ".x")
            await qmp.chardev_add(
                id="s",
                backend=ChardevBackendSocket(
                    data=ChardevSocket(addr=SocketAddressLegacyUnix(data=listen), wait=False)
                ),
            )
            labels = {info.label: info.filename for info in await qmp.query_chardev()}
            assert labels["n"] == "null"
            assert labels["s"] == f"disconnected:unix:{address}.x,server=on"
            await qmp.chardev_remove(id="n")
            with pytest.raises(GenericError, match="Chardev 'n' not found"):
                await qmp.chardev_remove(id="n")

    with emulator(program, "-machine", "none", "-S") as (_, address):
        run(test(address))


@both
def test_many_commands_in_flight(program: str) -> None:
    async def test(address: str) -> None:
        async with Client.connect(address) as qmp:
            ended: list[int] = []

            async def ask(number: int) -> None:
                await qmp.query_name()
                ended.append(number)

            await asyncio.gather(*(ask(number) for number in range(500)))
            assert ended == list(range(500))

    with emulator(program, "-machine", "none", "-S") as (_, address):
        run(test(address))


@both
def test_passed_descriptors(program: str) -> None:
    async def test(address: str) -> None:
        async with Client.connect(address, oob=True) as qmp:
            assert "oob" in qmp.enabled
            here, there = socket.socketpair()
            with here, there:
                await qmp.using(fds=[there.fileno()], timeout=30).getfd(fdname="mine")
                await qmp.closefd(fdname="mine")
                there.close()
                assert await asyncio.get_running_loop().run_in_executor(None, here.recv, 1) == b""
                with pytest.raises(GenericError, match="No file descriptor supplied via SCM_RIGHTS"):
                    await qmp.getfd(fdname="none")

    with emulator(program, "-machine", "none", "-S") as (_, address):
        run(test(address))


def test_tcp() -> None:
    async def test(address: str) -> None:
        async with Client.connect(address) as qmp:
            assert not (await qmp.query_status()).running

    with emulator(QEMUD, "-machine", "none", "-S", given=socket.create_server(("127.0.0.1", 0))) as (
        _,
        address,
    ):
        assert address.startswith("tcp:127.0.0.1:")
        run(test(address))

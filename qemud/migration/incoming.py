"""A machine that arrives: it takes the place of the one that this process was started with.

    await incoming.begin(address)       # GenericError: it cannot be waited for

Memory is filled as it comes.  The rest is looked at as a whole before anything of it is used, and the machine runs only when all has
come, and whoever sends it has said the last word.  What fails before leaves no machine: the process ends, or waits to be ended.

Source of states, events and texts: QEMU 10.0, migration/migration.c (process_incoming_migration_co and _bh).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import zlib
from typing import TYPE_CHECKING, Any

from qemud._generated.types.migration import MigrationStatus
from qemud._generated.types.run_state import RunState
from qemud.block.pool import pool
from qemud.logs import Logger
from qemud.machine.snapshot import apply, check_objects, check_place, check_value, memory_of
from qemud.machine.vm import NEEDS_RESET
from qemud.migration import memory
from qemud.migration.live import END, GO, PAGES, SECTION_SIZE, STATE, ZEROS, Opening, Section, pack_answer
from qemud.migration.still import still
from qemud.migration.stream import HEADER_SIZE, PIECE, Run, parse_object, run_bytes
from qemud.migration.transport import wait_at
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.migration import MigrationAddress, MigrationInfo, MigrationOffer
    from qemud._generated.types.snapshot import SavedMachine
    from qemud.chardev.address import Address
    from qemud.machine.memory import Section as Region
    from qemud.machine.services import Services
    from qemud.migration.channel import Channel
    from qemud.migration.service import Migration
    from qemud.migration.transport import Gate
    from qemud.qom.object import Object

_AFTER = NEEDS_RESET | {RunState.PRELAUNCH, RunState.PAUSED, RunState.GUEST_PANICKED}
"""States that a machine has again when it arrives; in any other it is paused."""

log = Logger("migration")


class Incoming:
    """See the module."""

    def __init__(self, migration: Migration) -> None:
        self._migration = migration
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._gate: Gate | None = None
        self.status = MigrationStatus.NONE
        self.error = ""

    @property
    def loading(self) -> bool:
        """Whether a machine arrives at this moment."""
        return self.status is MigrationStatus.ACTIVE

    @property
    def _services(self) -> Services:
        return self._migration.services

    def check(self) -> None:
        """Raise GenericError where no machine can be received, or not once more."""
        if self._started:
            raise GenericError("The incoming migration has already been started")
        if self._services.vm.state is not RunState.INMIGRATE:
            raise GenericError("'-incoming' was not specified on the command line")

    async def begin(self, address: MigrationAddress, *, exit_on_error: bool) -> None:
        """Wait for a machine; `exit_on_error` ends the process when it cannot be received.  GenericError: it cannot be waited for."""
        self.check()
        self._set(MigrationStatus.SETUP)
        try:
            self._gate = await wait_at(address, self._find_descriptor)
        except BaseException:
            self.status = MigrationStatus.NONE  # so that the client can put it right
            raise
        self._started = True
        self._task = asyncio.get_running_loop().create_task(
            self._run(self._gate, exit_on_error=exit_on_error)
        )

    def _find_descriptor(self, name: str) -> int:
        """A number, of a descriptor that the process was started with, or the name that a client has given one."""
        if name[:1].isascii() and name[:1].isdigit():
            return self._migration.find_descriptor(name)
        return self._services.take_descriptor(name)

    @property
    def waiting(self) -> bool:
        """Whether a machine is waited for, or arrives."""
        return self.status in {MigrationStatus.SETUP, MigrationStatus.ACTIVE}

    def yank(self) -> None:
        """End the connection, which may hang: it fails."""
        if self.loading and self._gate is not None:
            self._gate.close()

    def describe(self, info: MigrationInfo) -> None:
        """Put into `info` what is known; nothing if none is waited for."""
        if self.status is MigrationStatus.NONE:
            return
        info.status = self.status
        info.error_desc = self.error or None
        if self._gate is not None and self._gate.addresses:
            info.socket_address = [_public(address) for address in self._gate.addresses]

    async def close(self) -> None:
        """The process ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _set(self, status: MigrationStatus) -> None:
        self.status = status
        self._migration.tell(status)

    async def _run(self, gate: Gate, *, exit_on_error: bool) -> None:
        try:
            channel = await gate.channel()
            self._set(MigrationStatus.ACTIVE)
            await self._receive(channel)
        except GenericError as error:
            self.error = f"load of migration failed: {os.strerror(errno.EINVAL)}: {error}"
        except OSError as error:
            self.error = f"load of migration failed: {error.strerror or error}"
        except Exception as error:
            log.exception("an incoming migration failed")
            self.error = f"load of migration failed: Internal error: {type(error).__name__}"
        finally:
            gate.close()
        if self.error:
            self._set(MigrationStatus.FAILED)
            self._migration.report(self.error)
            if exit_on_error:
                self._services.vm.end(1)
            return
        self._set(MigrationStatus.COMPLETED)

    async def _receive(self, channel: Channel) -> None:
        raw = await _read(channel, HEADER_SIZE)
        opening = Opening.parse(raw)
        try:
            stream = _Stream(channel, self._services)
            await stream.read_offer(opening)
            value, objects = await stream.read_all()
            await self._arrive(stream, value, objects, wants_answer=opening.wants_answer)
        except GenericError as error:
            if opening.wants_answer and channel.two_way:
                with contextlib.suppress(OSError):
                    await channel.write([pack_answer(str(error))])
            raise

    async def _arrive(
        self, stream: _Stream, value: SavedMachine, objects: list[tuple[Object, Any]], *, wants_answer: bool
    ) -> None:
        services, vm = self._services, self._services.vm
        async with vm.transitions:
            async with still(services):
                await vm.mailboxes.call(stream.put, value, objects)
            if wants_answer:
                await stream.channel.write([pack_answer("")])
                await stream.read_go()
            self._announce()
            if services.has_block:
                services.block.incoming = False
                vm.before_cont.append(self._read_disks)
            after = value.status if value.status in _AFTER else RunState.PAUSED
            if value.status is RunState.RUNNING and vm.autostart:
                try:
                    await vm.take_up(RunState.RUNNING)
                except GenericError as error:
                    # Somebody else has a disk; `cont` tries again.
                    self._migration.report(str(error))
                else:
                    return
            await vm.take_up(after)

    async def _read_disks(self) -> None:
        """The disks are ours for the first time: what devices keep of them is read again."""
        for backend in self._services.block.backends:
            for read in tuple(backend.on_reverted):
                await read()
        self._services.vm.before_cont.remove(self._read_disks)

    def _announce(self) -> None:
        """Tell the networks where the machine is now."""
        services, parameters = self._services, self._migration.options.parameters
        if services.has_net:
            from qemud._generated.types.net import AnnounceParameters

            services.net.announcements.begin(
                AnnounceParameters(
                    initial=parameters.announce_initial or 0,
                    max=parameters.announce_max or 0,
                    rounds=parameters.announce_rounds or 0,
                    step=parameters.announce_step or 0,
                )
            )


class _Stream:
    """The stream as it is read."""

    def __init__(self, channel: Channel, services: Services) -> None:
        self.channel = channel
        self._services = services
        self._regions: list[Region] = []
        self._sizes: list[int] = []

    async def read_offer(self, opening: Opening) -> None:
        """See whether the machine can be one like this.  GenericError, OSError."""
        from qemud.qapi.runtime.check import parse_type

        raw = await _read(self.channel, opening.length)
        if zlib.crc32(raw) != opening.checksum:
            raise GenericError("the stream is damaged: the checksum of the offer is wrong")
        offer: MigrationOffer = parse_type("MigrationOffer", parse_object(raw))
        vm = self._services.vm
        check_place(vm, self._services.board, offer.machine, offer.memory)
        self._regions = memory_of(vm.memory)
        self._sizes = [region.size for region in self._regions]
        self._check_order([item.name for item in offer.memory])

    def _check_order(self, names: list[str]) -> None:
        if names != [region.name for region in self._regions]:
            raise GenericError("saved memory is in another order")

    async def read_all(self) -> tuple[SavedMachine, list[tuple[Object, Any]]]:
        """Fill memory, and read all else: it fits when this returns.  GenericError, OSError."""
        await memory.clear(self._regions)
        value = None
        while (section := await self._section()).kind != END:
            if section.kind == STATE and value is None:
                value = await self._state(section)
            elif section.kind in {PAGES, ZEROS}:
                await self._memory(section)
            else:
                raise GenericError(f"the stream has a section of kind {section.kind} where none can be")
        if value is None:
            raise GenericError("the stream has ended, and there was no state")
        vm, board = self._services.vm, self._services.board
        return value, await check_objects(vm, board, value)

    async def read_go(self) -> None:
        """Wait for the last word.  GenericError, OSError."""
        section = await self._section()
        if section.kind != GO:
            raise GenericError(f"the stream has a section of kind {section.kind}, expected {GO}")

    async def _section(self) -> Section:
        return Section.parse(await _read(self.channel, SECTION_SIZE), self._sizes)

    async def _memory(self, section: Section) -> None:
        region = self._regions[section.region]
        run = Run(section.region, section.amount, section.first)
        start = section.first * PIECE
        if section.kind == ZEROS:
            await pool.run(memory.clear_range, region, start, start + run_bytes(run, region.size))
        else:
            await self.channel.fill(region.view(region.base + start, run_bytes(run, region.size)))

    async def _state(self, section: Section) -> SavedMachine:
        raw = await _read(self.channel, section.amount)
        if zlib.crc32(raw) != section.checksum:
            raise GenericError("the stream is damaged: the checksum of the state is wrong")
        vm = self._services.vm
        value = check_value(vm, self._services.board, parse_object(raw))
        if memory_of(vm.memory) != self._regions:
            raise GenericError("the memory of this machine has changed meanwhile")
        self._check_order([item.name for item in value.memory])
        return value

    def put(self, value: SavedMachine, objects: list[tuple[Object, Any]]) -> None:
        """Machine thread: memory has its content."""
        vm = self._services.vm
        for region in self._regions:
            vm.memory.written(region.base, region.size)
        apply(vm, value, objects)


async def _read(channel: Channel, size: int) -> bytes:
    """That many bytes; the room for them grows as they come.  OSError."""
    parts: list[bytes] = []
    while size:
        part = bytearray(min(size, 1 << 20))
        await channel.fill(memoryview(part))
        parts.append(bytes(part))
        size -= len(part)
    return b"".join(parts)


def _public(address: Address) -> Any:
    """An address in the form in which clients see it."""
    from qemud._generated.types.sockets import (
        InetSocketAddress,
        SocketAddressFd,
        SocketAddressInet,
        SocketAddressUnix,
        UnixSocketAddress,
    )

    if isinstance(address, InetSocketAddress):
        family = "ipv6" if ":" in address.host else "ipv4"
        return SocketAddressInet(host=address.host, port=address.port, **{family: True})
    if isinstance(address, UnixSocketAddress):
        return SocketAddressUnix(path=address.path, abstract=address.abstract, tight=address.tight)
    return SocketAddressFd(str=address.str)

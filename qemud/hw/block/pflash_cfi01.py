"""NOR flash memory with Intel's command set (`cfi.pflash01`): where firmware is, and what it remembers.

The content is read from the drive before the machine is made, and kept in memory.  A bank has it in one of two ways:

- as registers: loads go to the device, which knows commands; what is programmed is written to the drive behind the guest's back, one
  piece after the other;
- as ROM (`executable`): code can be run from it, and loads cost nothing, but stores do nothing.

Source: JEDEC JESD68.01 (CFI query), Intel StrataFlash Embedded Memory (P30) data sheet, chapter 11, for the commands; identification and
what happens at the edges: QEMU 10.0, hw/block/pflash_cfi01.c.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from qemud._generated.types.pflash import CfiPflash01Options, CfiPflash01State
from qemud.logs import Logger, guest_error
from qemud.machine.memory import RamBlock
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import SysBusDevice

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.block.backend import BlockBackend
    from qemud.block.disk import Disk

log = Logger("pflash")

READY = 0x80
ERASE_ERROR = 0x20
PROGRAM_ERROR = 0x10

_BUFFER_BITS = 11
_STATUS_COMMANDS = frozenset((0x10, 0x20, 0x28, 0x40, 0x50, 0x60, 0x70, 0xE8))
_SECTOR = 512


class Command:
    """What the first store of a command says."""

    PROGRAM = 0x10
    ERASE = 0x20
    ERASE_ALSO = 0x28
    PROGRAM_ALSO = 0x40
    CLEAR_STATUS = 0x50
    LOCK = 0x60
    READ_STATUS = 0x70
    READ_ID = 0x90
    QUERY = 0x98
    CONFIRM = 0xD0
    WRITE_BUFFER = 0xE8
    AMD_RESET = 0xF0
    READ_ARRAY = 0xFF


class CfiPflash01(SysBusDevice, type_name="cfi.pflash01", options=CfiPflash01Options, state=CfiPflash01State):
    """See the module."""

    options: CfiPflash01Options
    state: CfiPflash01State

    def __init__(self, options: CfiPflash01Options | None = None, *, executable: bool = False) -> None:
        super().__init__(options)
        self.executable = executable
        self._base = 0
        self._block: RamBlock | None = None
        self._backend: BlockBackend | None = None
        self._disk: Disk | None = None
        self._dirty: dict[int, None] = {}  # blocks of the drive that are to be written, in order
        self._writing = False
        self._waiters: list[Callable[[], None]] = []

    @property
    def size(self) -> int:
        """In bytes."""
        return self.options.num_blocks * self.options.sector_length

    @property
    def has_drive(self) -> bool:
        """Whether anything is in it."""
        return self._backend is not None

    def shown_option(self, name: str) -> Any:
        """As in QEMU, `drive` names what is there now, after snapshots, jobs and changes of the medium."""
        backend = self._backend
        return backend.reference if name == "drive" and backend is not None else super().shown_option(name)

    # -- life -------------------------------------------------------------------------------------------------------

    async def claim(self, services: Any) -> None:
        """Take the drive, and read all of it."""
        if not self.options.drive:
            return
        from qemud.block.backend import claim_drive, release_drive
        from qemud.block.disk import Disk

        backend = await claim_drive(services.block, self, "drive", self.options.drive)
        try:
            block = await self._read_all(backend)
        except BaseException:
            await release_drive(backend)
            raise
        self._backend, self._block = backend, block
        self._mailboxes = services.vm.mailboxes
        services.vm.on_stopped.append(self.settled)  # before the disk's own, which flushes what was written
        self._disk = Disk(backend, services.vm.mailboxes, services.vm)
        backend.on_reverted.append(self._read_again)

    async def _read_all(self, backend: BlockBackend) -> RamBlock:
        backend.configure(read_only=backend.read_only, resizable=False)
        if backend.size != self.size:
            raise GenericError(
                f"{self.type_name} device '{self.path}' requires {self.size} bytes, "
                f"{backend.name} block backend provides {backend.size} bytes"
            )
        block = RamBlock(self.options.name or self.type_name, self.size)
        block.dumped = False
        try:
            await backend.readv(0, [block.view])
        except OSError as error:
            block.close()
            raise GenericError(f"can't read {backend.name} block backend: {error.strerror}") from None
        return block

    async def _read_again(self) -> None:
        """The drive has gone back to what it was.  The machine stands still."""
        backend, block = self._backend, self._block
        if backend is not None and block is not None and backend.node is not None:
            try:
                await backend.node.readv(0, [block.view])
            except OSError as error:
                raise GenericError(f"can't read {backend.name} block backend: {error.strerror}") from None

    async def settled(self) -> None:
        """From the loop: wait until all that was programmed is in the drive."""
        if self._disk is None:
            return
        mailboxes = self._mailboxes
        future = asyncio.get_running_loop().create_future()

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        await mailboxes.call(self._when_written, lambda: mailboxes.send(resolve))
        await future

    def _when_written(self, done: Callable[[], None]) -> None:
        if self._writing:
            self._waiters.append(done)
        else:
            done()

    async def give_up(self) -> None:
        """Give the drive back."""
        if self._backend is not None:
            from qemud.block.backend import release_drive

            if self._disk is not None:
                self._disk.close()
                self._disk = None
            backend, self._backend = self._backend, None
            await release_drive(backend)

    def realize(self) -> None:
        """Claim the addresses, if there is something there."""
        options = self.options
        for name, value in (("sector-length", options.sector_length), ("num-blocks", options.num_blocks)):
            if not value:
                raise GenericError(f'attribute "{name}" not specified or zero.')
        if not options.name:
            raise GenericError('attribute "name" not specified.')
        devices = options.width // options.device_width
        self._buffer_size = devices << _BUFFER_BITS
        self._table = _query_table(options.num_blocks, options.sector_length // devices)
        self._buffer = bytearray()
        self.mmio.clear()
        if not self.executable or self._block is None:
            self.init_mmio(options.name, self.size)

    def place(self, base: int) -> None:
        """Where it is, once it is realized."""
        if self.mmio:
            self.map(0, base)
        else:
            assert self._block is not None
            self.machine.memory.add_ram(self._region, base, self._block, readonly=True)
            self._base = base

    @property
    def _region(self) -> str:
        return f"{self.path}/{self.options.name}"

    def unrealize(self) -> None:
        """Leave the address space."""
        if self._base:
            self.machine.memory.remove(self._region)
            self._base = 0

    def reset_enter(self) -> None:
        """The content is read; what was to be written to the drive still is."""
        self._read_array()
        self.state.status = READY
        self._drop_buffer()

    def before_save(self) -> None:
        """Note what is in the buffer."""
        self.state.buffer = self._buffer.hex()

    def check_state(self, state: CfiPflash01State) -> None:
        """Refuse a buffer of another size."""
        with contextlib.suppress(ValueError):
            wanted = 0 if state.buffer_offset is None else self._buffer_size
            inside = state.buffer_offset is None or state.buffer_offset + wanted <= self.size
            if len(bytes.fromhex(state.buffer)) == wanted and inside:
                return
        raise GenericError("the buffer is none of this flash memory")

    def after_load(self) -> None:
        """Fill the buffer."""
        self._buffer = bytearray.fromhex(self.state.buffer)

    # -- loads ------------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """A load: the content, or what the command asks for."""
        if size == 8:
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        command = self.state.command
        if command == 0:
            return self._content(offset, size)
        if command in _STATUS_COMMANDS:
            return self._each(self.state.status, size)
        if command == Command.READ_ID:
            return self._identify(offset)
        if command == Command.QUERY:
            index = self._index(offset)
            return self._each(self._table[index] if index < len(self._table) else 0, 4) & (1 << 8 * size) - 1
        self._read_array()
        return self._content(offset, size)

    def _content(self, offset: int, size: int) -> int:
        block = self._block
        return 0 if block is None else int.from_bytes(block.view[offset : offset + size], "little")

    def _each(self, value: int, size: int) -> int:
        """What every device of the bank answers, side by side."""
        width = self.options.device_width
        return sum(value << 8 * at for at in range(0, max(size, width), width)) & (1 << 8 * size) - 1

    def _index(self, offset: int) -> int:
        """What address the devices see."""
        return offset // self.options.width

    def _identify(self, offset: int) -> int:
        ids = {0: self.options.id0, 1: self.options.id1}
        return self._each(ids.get(self._index(offset) & 0xFF, 0), 4)

    # -- stores -----------------------------------------------------------------------------------------------------

    def write(self, offset: int, value: int, size: int) -> None:
        """A store: a part of a command."""
        if size == 8:
            self.write(offset, value & 0xFFFF_FFFF, 4)
            self.write(offset + 4, value >> 32, 4)
            return
        state = self.state
        match state.cycle:
            case 0:
                self._begin(offset, value & 0xFF)
            case 1:
                self._second(offset, value, size)
            case 2 if state.command == Command.WRITE_BUFFER:
                self._fill(offset, value, size)
            case _:
                self._confirm(value & 0xFF)

    def _begin(self, offset: int, command: int) -> None:
        state = self.state
        match command:
            case Command.PROGRAM | Command.PROGRAM_ALSO | Command.LOCK | Command.QUERY:
                pass
            case Command.ERASE | Command.ERASE_ALSO:
                self._erase(offset)
            case Command.WRITE_BUFFER:
                state.status |= READY
            case Command.READ_STATUS | Command.READ_ID:
                state.command = command
                return
            case Command.CLEAR_STATUS:
                state.status = 0
                self._read_array()
                return
            case 0 | Command.AMD_RESET | Command.READ_ARRAY:
                self._read_array()
                return
            case _:
                self._wrong(offset, command)
                return
        state.command = command
        state.cycle = 1

    def _second(self, offset: int, value: int, size: int) -> None:
        state = self.state
        command = value & 0xFF
        match state.command:
            case Command.PROGRAM | Command.PROGRAM_ALSO:
                self._program(offset, value.to_bytes(size, "little"))
                state.cycle = 0
            case Command.ERASE | Command.ERASE_ALSO if command == Command.CONFIRM:
                state.status |= READY
                state.cycle = 0
            case Command.LOCK if command in {Command.CONFIRM, 0x01}:
                state.status |= READY
                state.cycle = 0
            case Command.WRITE_BUFFER:
                state.counter = value & (1 << 8 * self.options.device_width) - 1
                state.cycle = 2
            case Command.QUERY if command != Command.READ_ARRAY:
                pass
            case _:
                if command != Command.READ_ARRAY:
                    guest_error("pflash", "unknown command", offset=offset, value=value)
                self._read_array()

    def _fill(self, offset: int, value: int, size: int) -> None:
        """A store into the buffer, or the last one of them."""
        state = self.state
        if state.buffer_offset is None and state.counter:
            state.buffer_offset = offset & -self._buffer_size
            assert self._block is not None or not self._writable
            self._buffer = bytearray(self._buffer_size)
            if self._block is not None:
                begin = state.buffer_offset
                self._buffer[:] = self._block.view[begin : begin + self._buffer_size]
        at = -1 if state.buffer_offset is None else offset - state.buffer_offset
        if self._writable and 0 <= at <= self._buffer_size - size:
            self._buffer[at : at + size] = value.to_bytes(size, "little")
        else:
            state.status |= PROGRAM_ERROR
        state.status |= READY
        if state.counter:
            state.counter -= 1
        else:
            state.cycle = 3

    def _confirm(self, command: int) -> None:
        state = self.state
        begin, content = state.buffer_offset, bytes(self._buffer)
        self._drop_buffer()
        if command == Command.CONFIRM and not state.status & PROGRAM_ERROR and begin is not None:
            self._program(begin, content)
            state.cycle = 0
            state.status |= READY
        else:
            self._read_array()

    def _drop_buffer(self) -> None:
        self.state.buffer_offset = None
        self._buffer = bytearray()

    def _wrong(self, offset: int, command: int) -> None:
        guest_error("pflash", "unknown command", offset=offset, value=command)
        self._read_array()

    def _read_array(self) -> None:
        self.state.cycle = 0
        self.state.command = 0

    # -- content ----------------------------------------------------------------------------------------------------

    @property
    def _writable(self) -> bool:
        return self._disk is not None and not self._disk.read_only

    def _erase(self, offset: int) -> None:
        state = self.state
        size = self.options.sector_length
        if self._writable:
            self._change(offset & -size, b"\xff" * size)
        else:
            state.status |= ERASE_ERROR
        state.status |= READY

    def _program(self, offset: int, content: bytes) -> None:
        state = self.state
        if self._writable:
            self._change(offset, content)
        else:
            state.status |= PROGRAM_ERROR
        state.status |= READY

    def _change(self, offset: int, content: bytes) -> None:
        assert self._block is not None
        self._block.view[offset : offset + len(content)] = content
        first, last = offset // _SECTOR, (offset + len(content) - 1) // _SECTOR
        for number in range(first, last + 1):
            self._dirty[number] = None
        self._write_back()

    def _write_back(self) -> None:
        """Write the next stretch of changed sectors to the drive; one at a time, so that the last change wins."""
        if self._writing or not self._dirty or self._disk is None or self._block is None:
            return
        begin = end = next(iter(self._dirty))
        while end in self._dirty:
            del self._dirty[end]
            end += 1
        self._writing = True
        view = self._block.view[begin * _SECTOR : end * _SECTOR]
        self._disk.write(begin * _SECTOR, [view], self._written)

    def _written(self, error: int) -> None:
        self._writing = False
        if error:
            log.warning("flash memory could not be written to its drive", name=self.options.name, errno=error)
        self._write_back()
        if not self._writing:
            waiters, self._waiters = self._waiters, []
            for done in waiters:
                done()


def _query_table(blocks: int, block_size: int) -> bytes:
    """What a device of the bank tells of itself: one region of blocks of one size."""
    table = bytearray(0x52)
    table[0x10:0x13] = b"QRY"
    table[0x13] = 0x01  # Intel's commands
    table[0x15] = 0x31  # the primary extended table
    table[0x1B], table[0x1C] = 0x45, 0x55  # volts
    table[0x1F], table[0x20], table[0x21] = 0x07, 0x07, 0x0A  # typical times
    table[0x23:0x26] = b"\4\4\4"  # greatest times
    table[0x27] = (blocks * block_size).bit_length() - 1
    table[0x28] = 0x02
    table[0x2A] = _BUFFER_BITS
    table[0x2C] = 1
    table[0x2D:0x2F] = (blocks - 1).to_bytes(2, "little")
    table[0x2F:0x31] = (block_size >> 8).to_bytes(2, "little")
    table[0x31:0x36] = b"PRI10"
    table[0x3F] = 1
    return bytes(table)

"""Guest memory into a file of the host: what `memsave` and `pmemsave` do.

The machine thread copies memory in slices, a pool thread writes them; the guest may run meanwhile.  Only RAM and ROM are read:
a device's registers change when they are looked at.  A dump that fails leaves no file that was not there before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from qemud.hw.riscv.mmu import translate
from qemud.machine.descriptors import FdsetError, close_file, names_fdset, open_file
from qemud.machine.memory import ADDRESS_SPACE_END, SectionKind
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.memory import AddressSpace
    from qemud.machine.vcpu import Vcpu
    from qemud.machine.vm import VirtualMachine

SLICE = 1 << 20
"""Bytes that one call copies: well below 2 ms of the machine's time."""


async def save_physical(vm: VirtualMachine, address: int, size: int, path: str) -> None:
    """Write physical memory to a file, zeros where there is none. Raises GenericError."""
    if address + size > ADDRESS_SPACE_END:
        raise _invalid(address, size)

    def read(position: int, length: int) -> tuple[bytes | None, int]:
        return _read_physical(vm.memory, position, length)

    await _save(vm, address, size, path, read)


async def save_virtual(vm: VirtualMachine, vcpu: Vcpu, address: int, size: int, path: str) -> None:
    """Write what a processor sees to a file. Raises GenericError where it sees no memory."""
    invalid = _invalid(address, size)
    if address + size > ADDRESS_SPACE_END:
        raise invalid

    def read(position: int, length: int) -> tuple[bytes | None, int]:
        found = translate(vcpu, vm.memory, position)
        if found is None:
            raise invalid
        physical, left = found
        data, taken = _read_physical(vm.memory, physical, min(length, left))
        if data is None:
            raise invalid
        return data, taken

    await _save(vm, address, size, path, read)


def _invalid(address: int, size: int) -> GenericError:
    return GenericError(f"Invalid addr 0x{address:016x}/size {size} specified")


async def save_blob(blob: bytes, path: str) -> None:
    """Write something that is not the machine's any more."""
    await _in_pool(_write_whole, path, blob)


def _read_physical(memory: AddressSpace, address: int, length: int) -> tuple[bytes | None, int]:
    """Bytes from `address`, or None for a hole, and how many bytes that is. Machine thread."""
    section = memory.find(address)
    if section is not None and section.kind is not SectionKind.MMIO:
        taken = min(length, section.end - address, SLICE)
        return section.view(address, taken).tobytes(), taken
    if section is not None:
        return None, min(length, section.end - address)
    bases = (other.base for other in memory if other.base > address)
    return None, min(length, min(bases, default=ADDRESS_SPACE_END) - address)


async def _save(
    vm: VirtualMachine,
    address: int,
    size: int,
    path: str,
    read: Callable[[int, int], tuple[bytes | None, int]],
) -> None:
    file = await _in_pool(_File, path)
    try:
        position, end = address, address + size
        while position < end:
            data, taken = await vm.mailboxes.call(read, position, end - position)
            await _in_pool(file.append, data, taken)
            position += taken
        await _in_pool(file.finish)
    except BaseException:
        file.discard()
        raise


class _File:
    """A file being written."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._new = not (names_fdset(path) or os.path.lexists(path))
        self._size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        if not names_fdset(path):
            flags |= os.O_NONBLOCK  # or a FIFO that nobody reads would be waited for without end
        try:
            self._fd = open_file(path, flags)
            os.set_blocking(self._fd, True)
        except FdsetError as error:
            raise GenericError(f"Could not open '{path}': {error.strerror}: {error.reason}") from None
        except OSError as error:
            raise GenericError(f"Could not open '{path}': {error.strerror}") from None

    def append(self, data: bytes | None, size: int) -> None:
        """Write on; None is a stretch of zeros, which takes no space."""
        self._size += size
        try:
            if data is None:
                os.lseek(self._fd, size, os.SEEK_CUR)
                return
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except (OSError, OverflowError):
            raise self._failed() from None

    def finish(self) -> None:
        """Make it as long as it should be, and close it."""
        try:
            if os.fstat(self._fd).st_size < self._size and _is_regular(self._fd):
                os.ftruncate(self._fd, self._size)
        except (OSError, OverflowError):
            raise self._failed() from None
        close_file(self._fd)

    def discard(self) -> None:
        """Close it and take it away, if it was not there before."""
        close_file(self._fd)
        if self._new:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _failed(self) -> GenericError:
        return GenericError(f"writing memory to '{self._path}' failed")


def _is_regular(fd: int) -> bool:
    import stat

    return stat.S_ISREG(os.fstat(fd).st_mode)


def _write_whole(path: str, blob: bytes) -> None:
    file = _File(path)
    try:
        file.append(blob, len(blob))
        file.finish()
    except BaseException:
        file.discard()
        raise


async def _in_pool(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)

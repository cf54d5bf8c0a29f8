"""The commands of `descriptors.json`: what clients pass over the monitor's socket.

`take_named` is how other rooms come by a descriptor that a client has named; they get it as a service of the process.

Source: QEMU 10.0, monitor/fds.c and monitor/qmp-cmds.c, for order and texts.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.descriptors import DescriptorsCommands
from qemud._generated.types.descriptors import AddfdInfo, FdsetFdInfo, FdsetInfo
from qemud.machine.descriptors import fdsets
from qemud.monitor.passed import current
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.chardev.registry import Chardevs


class Services(Protocol):
    """What these handlers use of the process."""

    @property
    def chardevs(self) -> Chardevs:
        """The set of chardevs."""


def take_named(name: str) -> int:
    """The descriptor that the running command's client has named so; the caller's from now on.  GenericError: there is none."""
    fd = current.get().named.pop(name, None)
    if fd is None:
        raise GenericError(f"File descriptor named '{name}' has not been found")
    return fd


def _take_passed() -> int:
    """The oldest descriptor that came and nobody took; the caller's from now on."""
    fd = current.get().take()
    if fd is None:
        raise GenericError("No file descriptor supplied via SCM_RIGHTS")
    return fd


class DescriptorsHandlers(DescriptorsCommands):
    """Handlers of `descriptors.json`."""

    def __init__(self, services: Services) -> None:
        self._chardevs = services.chardevs

    async def getfd(self, *, fdname: str) -> None:
        """`getfd`."""
        fd = _take_passed()
        if fdname[:1].isascii() and fdname[:1].isdigit():
            os.close(fd)
            raise GenericError("Parameter 'fdname' expects a name not starting with a digit")
        named = current.get().named
        before = named.get(fdname)
        named[fdname] = fd
        if before is not None:
            os.close(before)

    async def closefd(self, *, fdname: str) -> None:
        """`closefd`."""
        fd = current.get().named.pop(fdname, None)
        if fd is None:
            raise GenericError(f"File descriptor named '{fdname}' not found")
        os.close(fd)

    async def add_fd(self, *, fdset_id: int | None, opaque: str | None) -> AddfdInfo:
        """`add-fd`."""
        fd = _take_passed()
        try:
            number = fdsets.add(fd, fdset_id, opaque)
        except GenericError:
            os.close(fd)
            raise
        return AddfdInfo(fdset_id=number, fd=fd)

    async def remove_fd(self, *, fdset_id: int, fd: int | None) -> None:
        """`remove-fd`."""
        fdsets.remove(fdset_id, fd)

    async def query_fdsets(self) -> list[FdsetInfo]:
        """`query-fdsets`."""
        return [
            FdsetInfo(
                fdset_id=number, fds=[FdsetFdInfo(fd=member.fd, opaque=member.opaque) for member in members]
            )
            for number, members in fdsets.members().items()
        ]

    async def add_client(self, *, protocol: str, fdname: str, skipauth: bool, tls: bool) -> None:
        """`add_client`."""
        del skipauth, tls  # nobody who takes a client here asks for either, as in QEMU
        fd = take_named(fdname)
        try:
            self._hand_over(fd, protocol)
        except GenericError:
            os.close(fd)
            raise

    def _hand_over(self, fd: int, label: str) -> None:
        """Make a socket the other side of a chardev.  GenericError: it stays the caller's."""
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise GenericError("parameter @fdname must name a socket")
        chardev = self._chardevs.get(label)
        if chardev is None:
            raise GenericError(f"protocol '{label}' is invalid")
        if not chardev.add_client(fd):
            raise GenericError("failed to add client")

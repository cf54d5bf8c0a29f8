"""The QMP commands about chardevs.

Source: QEMU 10.0, chardev/char.c and chardev/char-ringbuf.c, for texts.
"""

from __future__ import annotations

import base64
import string
from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.char import CharCommands
from qemud._generated.types.char import (
    ChardevBackendInfo,
    ChardevInfo,
    ChardevReturn,
    DataFormat,
)
from qemud._generated.types.char_backends import ChardevBackendKind
from qemud.chardev.stream import ChardevEvent
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.char_backends import ChardevBackend
    from qemud.chardev.address import ResolveFd
    from qemud.chardev.registry import Chardevs
    from qemud.chardev.ringbuf import RingbufChardev
    from qemud.chardev.stream import Chardev


_BASE64 = string.ascii_letters + string.digits + "+/=\n"


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def chardevs(self) -> Chardevs:
        """The set of chardevs."""

    @property
    def take_descriptor(self) -> ResolveFd:
        """Takes the descriptor that the command's client has named."""


class CharHandlers(CharCommands):
    """The commands of the schema module `char`."""

    def __init__(self, services: Services) -> None:
        self._chardevs = services.chardevs
        self._take_descriptor = services.take_descriptor

    async def query_chardev(self) -> list[ChardevInfo]:
        """As in the schema."""
        return [
            ChardevInfo(label=chardev.label, filename=chardev.filename, frontend_open=chardev.frontend_open)
            for chardev in self._chardevs
        ]

    async def query_chardev_backends(self) -> list[ChardevBackendInfo]:
        """As in the schema."""
        return [ChardevBackendInfo(name=kind.value) for kind in ChardevBackendKind]

    async def chardev_add(self, *, id: str, backend: ChardevBackend) -> ChardevReturn:  # noqa: A002 - wire name
        """As in the schema."""
        return _returned(await self._chardevs.add(id, backend, resolve_fd=self._take_descriptor))

    async def chardev_change(self, *, id: str, backend: ChardevBackend) -> ChardevReturn:  # noqa: A002 - wire name
        """As in the schema."""
        return _returned(await self._chardevs.change(id, backend, resolve_fd=self._take_descriptor))

    async def chardev_remove(self, *, id: str) -> None:  # noqa: A002 - wire name
        """As in the schema."""
        await self._chardevs.remove(id)

    async def chardev_send_break(self, *, id: str) -> None:  # noqa: A002 - wire name
        """As in the schema."""
        chardev = self._chardevs.get(id)
        if chardev is None:
            raise GenericError(f"Chardev '{id}' not found")
        chardev.happened(ChardevEvent.BREAK)

    async def ringbuf_write(self, *, device: str, data: str, format: DataFormat) -> None:  # noqa: A002 - wire name
        """As in the schema."""
        ringbuf = self._ringbuf(device)
        if format is DataFormat.BASE64:
            ringbuf.write(_decode_base64(data))
        else:
            ringbuf.write(data.encode("utf-8", "surrogatepass"))

    async def ringbuf_read(self, *, device: str, size: int, format: DataFormat) -> str:  # noqa: A002 - wire name
        """As in the schema."""
        ringbuf = self._ringbuf(device)
        if size <= 0:
            raise GenericError("size must be greater than zero")
        if format is DataFormat.BASE64:
            return base64.b64encode(ringbuf.take(size)).decode("ascii")
        return ringbuf.take_text(size)

    def _ringbuf(self, label: str) -> RingbufChardev:
        """The ring buffer with an ID."""
        from qemud.chardev.ringbuf import RingbufChardev

        chardev = self._chardevs.get(label)
        if chardev is None:
            raise GenericError(f"Device '{label}' not found")
        if not isinstance(chardev, RingbufChardev):
            raise GenericError(f"{label} is not a ringbuf device")
        return chardev


def _returned(chardev: Chardev) -> ChardevReturn:
    """What chardev-add tells of a new chardev."""
    return ChardevReturn(pty=chardev.filename.removeprefix("pty:") if chardev.kind == "pty" else None)


def _decode_base64(text: str) -> bytes:
    """Base64 as QEMU takes it: line ends between are skipped, and an end that is no whole byte is dropped."""
    if text.strip(_BASE64):
        raise GenericError("Base64 data contains invalid characters")
    digits = text.translate({ord("\n"): None, ord("="): None})
    if len(digits) % 4 == 1:
        digits = digits[:-1]
    return base64.b64decode(digits + "=" * (-len(digits) % 4))

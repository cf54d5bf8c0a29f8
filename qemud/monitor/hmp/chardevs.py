"""Commands about character devices.

Source: QEMU 10.0, chardev/char-hmp-cmds.c, for texts and layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import GenericError, QmpError
from qemud.qapi.runtime.qemuopts import HintedError, parse
from qemud.qapi.runtime.wire import to_wire

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell


async def add(shell: Shell, arguments: dict[str, Any]) -> None:
    """`chardev-add`: described as for -chardev, with a multiplexer on top if `mux=on` asks for one."""
    from qemud.chardev.help import kinds_help
    from qemud.chardev.options import describe

    values = _read(shell, arguments["args"])
    asked = kinds_help(values.get("backend", ""))
    if asked is not None:
        shell.print(asked)
        return
    described = describe(values, label=None)
    label = described.label
    if not described.mux:
        await shell.qmp("chardev-add", {"id": label, "backend": to_wire(described.backend)})
        return
    base = f"{label}-base"
    await shell.qmp("chardev-add", {"id": base, "backend": to_wire(described.backend)})
    try:
        backend = {"type": "mux", "data": {"chardev": base}}
        await shell.qmp("chardev-add", {"id": label, "backend": backend})
    except QmpError:
        await shell.qmp("chardev-remove", {"id": base})
        raise


async def change(shell: Shell, arguments: dict[str, Any]) -> None:
    """`chardev-change`."""
    from qemud.chardev.options import describe

    values = _read(shell, arguments["args"])
    if "id" in values:
        raise GenericError("Unexpected 'id' parameter")
    if "backend" not in values:
        raise GenericError('chardev: "(null)" missing backend')
    backend = describe(values, label=arguments["id"]).backend
    await shell.qmp("chardev-change", {"id": arguments["id"], "backend": to_wire(backend)})


def _read(shell: Shell, text: str) -> dict[str, str]:
    """The options in a text; what is wrong with them is printed first, as QEMU does."""
    try:
        return parse(text, implied="backend", warn=shell.reading.warn)
    except HintedError as error:
        shell.print(f"{error}\n{error.hint}\n")
        raise GenericError("Parsing chardev args failed") from None


async def remove(shell: Shell, arguments: dict[str, Any]) -> None:
    """`chardev-remove`."""
    await shell.qmp("chardev-remove", {"id": arguments["id"]})


async def send_break(shell: Shell, arguments: dict[str, Any]) -> None:
    """`chardev-send-break`."""
    await shell.qmp("chardev-send-break", {"id": arguments["id"]})


async def ringbuf_write(shell: Shell, arguments: dict[str, Any]) -> None:
    """`ringbuf_write`."""
    await shell.qmp("ringbuf-write", arguments)


async def ringbuf_read(shell: Shell, arguments: dict[str, Any]) -> None:
    """`ringbuf_read`; what a terminal would act on is shown by its number."""
    text = await shell.qmp("ringbuf-read", arguments)
    shell.print("".join(map(_visible, text)) + "\n")


def _visible(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if (character < " " and character not in "\n\t") or character == "\x7f":
        return f"\\u{ord(character):04X}"
    return character

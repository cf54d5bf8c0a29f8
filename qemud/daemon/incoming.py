"""`-incoming`: a machine that comes from elsewhere when the process starts, or later.

Source of the order and of texts: QEMU 10.0, system/vl.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.daemon.cmdline import UsageError, at
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.migration import MigrationAddress, MigrationChannel
    from qemud._generated.types.options import CommandLine
    from qemud.machine.services import Services

LATER = "defer"


def check(line: CommandLine) -> None:
    """Look at the option as far as that is possible before there is a machine.  Raises UsageError or GenericError."""
    if line.incoming != LATER:
        _address(line)
    if line.loadvm is not None:
        raise UsageError("'incoming' and 'loadvm' options are mutually exclusive")
    if line.preconfig and line.incoming != LATER:
        raise UsageError("'preconfig' supports '-incoming defer' only")


async def begin(services: Services, line: CommandLine) -> None:
    """Wait for the machine, unless a client is to say where.  Raises UsageError."""
    if line.incoming == LATER:
        return
    try:
        await services.migration.incoming.begin(_address(line), exit_on_error=True)
    except GenericError as error:
        raise UsageError(f"-incoming {line.incoming}: {error}") from None


def _address(line: CommandLine) -> MigrationAddress:
    """What the option names: a URI, or a channel as JSON."""
    text = line.incoming or ""
    with at("incoming", text):
        if not text.startswith("{"):
            from qemud.migration.address import parse_uri

            return parse_uri(text)
        from qemud.monitor.qmp.framing import parse_option
        from qemud.qapi.runtime.check import parse_type

        channel: MigrationChannel = parse_type("MigrationChannel", parse_option(text))
        return channel.addr

"""Networks of the command line: `-netdev`, `-nic`, `-net`.

    legacy = await open_networks(services.net, line)       # in QEMU's order
    ...                                                    # the devices are made
    warn_of(services.net, legacy)                          # what leads nowhere

Source of the order and of texts: QEMU 10.0, net/net.c (net_init_clients, net_check_clients).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.daemon.cmdline import at, warner
from qemud.logs import report
from qemud.net.options import Legacy, checked, is_nested, netdev
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.net_backends import Netdev
    from qemud._generated.types.options import CommandLine
    from qemud.net.registry import Networks


async def open_networks(networks: Networks, line: CommandLine) -> Legacy:
    """Make all backends.  Raises UsageError."""
    names: set[str] = set()
    texts = list(line.netdev or ())
    # Those in the newer syntax come first.
    texts.sort(key=lambda text: not (text.startswith("{") or is_nested(text)))
    for text in texts:
        with at("netdev", text):
            options = _json(text) if text.startswith("{") else netdev(text, warner("netdev", text))
            if options.id in names and not text.startswith("{"):
                raise GenericError(f"Duplicate ID '{options.id}' for netdev")
            names.add(options.id)
            await networks.add(options)
    legacy = Legacy()
    for text in line.nic or ():
        with at("nic", text):
            await legacy.nic(networks, text, warner("nic", text))
    for text in line.net or ():
        with at("net", text):
            await legacy.net(networks, text, warner("net", text))
    return legacy


def _json(text: str) -> Netdev:
    from qemud.monitor.qmp.framing import parse_option
    from qemud.qapi.runtime.check import parse_type

    return checked(parse_type("Netdev", parse_option(text)))


def warn_of(networks: Networks, legacy: Legacy | None) -> None:
    """Tell people what leads nowhere."""
    for warning in networks.warnings():
        report(f"warning: {warning}")
    for warning in legacy.warnings() if legacy is not None else ():
        report(f"warning: {warning}")

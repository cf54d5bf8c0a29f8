"""The command line's ways to describe networks: `-netdev`, `-nic` and `-net`.

    netdev("user,id=n,hostfwd=tcp::8080-:80", warn)      -> an instance of the schema's `Netdev`
    await open_networks(networks, line, place)

`stream` and `dgram` have the newer syntax, with nested members; the others the older one, where what is repeated becomes a list.

The boards here have no network cards of their own: `-nic` and `-net nic` make none, and say so, as QEMU does for such boards.

Source of texts: QEMU 10.0, net/net.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.net import mac
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.qemuopts import check_identifier, parse, split

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.net_backends import Netdev
    from qemud.net.registry import Networks

    Warn = Callable[[str], None]

_LISTS = frozenset(("hostfwd", "guestfwd", "dnssearch"))
NESTED = frozenset(("stream", "dgram"))
_NOT_HERE = frozenset(("none", "nic"))


def netdev(text: str, warn: Warn) -> Netdev:
    """What `-netdev` describes.  GenericError."""
    values = parse(text, implied="type", warn=warn)
    if values.get("type") in NESTED:
        from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type

        return checked(parse_keyval_type("Netdev", parse_keyval(text, "type")))
    return describe(values, text)


def describe(values: dict[str, str], text: str) -> Netdev:
    """What key and value pairs describe; `text` is where what is repeated is looked for.  GenericError."""
    from qemud.qapi.runtime.keyval import parse_keyval_type

    found: dict[str, Any] = dict(values)
    for name in _LISTS & found.keys():
        pairs = (part.partition("=") for part in split(text))
        found[name] = [{"str": value} for key, equals, value in pairs if key == name and equals]
    if "ipv6-net" in found:
        prefix, slash, length = found.pop("ipv6-net").partition("/")
        if slash and not (length.isascii() and length.isdecimal()):
            raise GenericError("parameter 'ipv6-net' expects a number after '/'")
        found["ipv6-prefix"] = prefix
        found["ipv6-prefixlen"] = length if slash else "64"
    if "id" not in found:
        raise GenericError("Parameter 'id' is missing")
    if found.get("type") in _NOT_HERE:
        raise GenericError(f"network backend '{found['type']}' is not compiled into this binary")
    known = _members(found.get("type", ""))
    strange = [name for name in found if known and name not in known]
    # What is wrong with the others comes first.
    made: Netdev = parse_keyval_type(
        "Netdev", {name: value for name, value in found.items() if name not in strange}
    )
    if strange:
        raise GenericError(f"Invalid parameter '{strange[0]}'")
    return made


def _members(kind: str) -> frozenset[str]:
    """The names of the options of a kind; none for a kind that there is not."""
    from qemud._generated.types.net_backends import Netdev

    for branch in Netdev.__subclasses__():
        if branch.type.value == kind:
            return frozenset((*branch.__struct_encode_fields__, "type", "id"))
    return frozenset()


def is_nested(text: str) -> bool:
    """Whether a description is in the newer syntax."""
    first = next((part for part in split(text) if part.startswith("type=")), split(text)[:1])
    kind = first if isinstance(first, str) else "".join(first)
    return kind.removeprefix("type=") in NESTED


def checked(options: Netdev) -> Netdev:
    """The same, if its id can be one.  GenericError."""
    check_identifier(options.id)
    return options


class Legacy:
    """What `-nic` and `-net` ask for."""

    def __init__(self) -> None:
        self._numbers = 0
        self.cards: list[tuple[str, str]] = []
        """Cards that no board makes: name and model."""

    def name(self) -> str:
        """A name that no user can give."""
        self._numbers += 1
        return f"#net{self._numbers - 1:03}"

    async def nic(self, networks: Networks, text: str, warn: Warn) -> None:
        """`-nic`: a backend, and a card for it."""
        values = parse(text, implied="type", warn=warn)
        kind = values.setdefault("type", "user")
        if kind == "none":
            return
        model = values.pop("model", "unspecified")
        if "id" not in values:
            values["id"] = self.name()
        if "mac" in values:
            self._check_mac(values.pop("mac"), "NIC cannot have multicast MAC address")
        await networks.add(describe(values, text))
        self.cards.append(("anonymous", model))

    async def net(self, networks: Networks, text: str, warn: Warn) -> None:
        """`-net`: a card or a backend at hub 0."""
        values = parse(text, implied="type", warn=warn)
        kind = values.get("type")
        if kind == "none":
            return
        if kind == "hubport":
            raise GenericError(f"network backend '{kind}' is only supported with -netdev/-nic")
        if "id" not in values:
            values["id"] = self.name()
        if kind != "nic":
            made: Any = describe(values, text)
            if kind == "tap" and (made.queues is not None or made.fds is not None):
                raise GenericError("Multiqueue tap cannot be used with hubs")
            await networks.add(made, hub=True)
            return
        known = {"type", "id", "netdev", "macaddr", "model", "addr", "vectors"}
        for name in values:
            if name not in known:
                raise GenericError(f"Invalid parameter '{name}'")
        if "macaddr" in values:
            self._check_mac(values["macaddr"], "NIC cannot have multicast MAC address (odd 1st byte)")
        if "netdev" not in values:
            from qemud.net.hub import add_port

            add_port(networks, 0, None)
        elif networks.find_netdev(values["netdev"]) is None:
            raise GenericError(f"netdev '{values['netdev']}' not found")
        self.cards.append((values["id"], values.get("model", "unspecified")))

    @staticmethod
    def _check_mac(text: str, multicast: str) -> None:
        try:
            address = mac.parse(text)
        except ValueError:
            raise GenericError("invalid syntax for ethernet address") from None
        if address[0] & 1:
            raise GenericError(multicast)

    def warnings(self) -> list[str]:
        """What has not come true."""
        return [
            f"requested NIC ({name}, model {model}) was not created (not supported by this machine?)"
            for name, model in self.cards
        ]

"""Ethernet addresses as people write them, and the ones that cards without an address of their own get.

Source: QEMU 10.0, net/util.c and net/net.c.
"""

from __future__ import annotations

from qemud.qapi.runtime.errors import GenericError

LENGTH = 6
_HEX = frozenset("0123456789abcdefABCDEF")
_PREFIX = bytes((0x52, 0x54, 0x00, 0x12, 0x34))
_FIRST, _LAST = 0x56, 0xFE


def parse(text: str, *, least: int = 1) -> bytes:
    """Six numbers in hexadecimal, of `least` to two digits, with `:` or `-` between; ValueError."""
    parts = text.replace("-", ":").split(":")
    if len(parts) == LENGTH and all(least <= len(part) <= 2 and _HEX.issuperset(part) for part in parts):
        return bytes(int(part, 16) for part in parts)
    raise ValueError(text)


def show(address: bytes) -> str:
    """As everybody writes them."""
    return address.hex(":")


class MacPool:
    """Which of the addresses that cards get by default are taken; given ones among them count."""

    def __init__(self) -> None:
        self._used: dict[int, int] = {}

    def choose(self) -> bytes:
        """A free address, which is taken now; GenericError when there is none."""
        for last in range(_FIRST, _LAST + 1):
            if not self._used.get(last):
                address = _PREFIX + bytes((last,))
                self.take(address)
                return address
        raise GenericError("there are no MAC addresses left to choose from: give one with mac=")

    def take(self, address: bytes) -> None:
        """A card has this address."""
        if address[:5] == _PREFIX:
            self._used[address[5]] = self._used.get(address[5], 0) + 1

    def give_back(self, address: bytes) -> None:
        """It has it no longer."""
        if address[:5] == _PREFIX:
            self._used[address[5]] -= 1

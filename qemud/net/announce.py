"""Cards that tell their network where they are, so that its switches learn it: `announce-self`.

A card sends a frame of RARP that asks for its own address, and has the guest's driver announce its addresses as well, if it can.

Source: QEMU 10.0, net/announce.c.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemud._generated.types.net import AnnounceParameters
    from qemud.net.registry import Networks

_RARP = bytes.fromhex("8035 0001 0800 06 04 0003")  # Ethernet, IPv4, "request reverse"
_SMALLEST = 60


def rarp(address: bytes) -> bytes:
    """The frame that announces a card's address."""
    frame = b"\xff" * 6 + address + _RARP + address + bytes(4) + address
    return frame.ljust(_SMALLEST, b"\0")


class Announcements:
    """The rounds that are under way, by id."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def begin(self, parameters: AnnounceParameters) -> None:
        """Announce now, and then as often as the parameters say, in the place of an earlier request of the same id."""
        name = parameters.id or ""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if parameters.rounds > 0:
            self._announce(name, parameters, parameters.rounds)

    def _announce(self, name: str, parameters: AnnounceParameters, left: int) -> None:
        self._timers.pop(name, None)
        wanted = parameters.interfaces
        for card in list(self._networks.nics):
            if wanted is None or card.name in wanted:
                card.announce()
        left -= 1
        if left:
            wait = parameters.initial + (parameters.rounds - left - 1) * parameters.step
            if wait < 0 or wait > parameters.max:
                wait = parameters.max
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(max(wait, 1) / 1000, self._announce, name, parameters, left)

    def close(self) -> None:
        """Announce no more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

"""Frames that arrive late, all at once: `filter-buffer`.

Source of texts: QEMU 10.0, net/filter-buffer.c.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qemud._generated.types.net_filter import FilterBufferProperties
from qemud.net.client import QUEUE_LIMIT
from qemud.net.filters.base import NetFilter
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.net.client import Frames, NetClient
    from qemud.net.registry import Networks


class FilterBuffer(NetFilter, type_name="filter-buffer", options=FilterBufferProperties):
    """See the module; what is more than `QUEUE_LIMIT` frames is lost."""

    options: FilterBufferProperties
    _timer: asyncio.TimerHandle | None = None

    async def set_up(self, _networks: Networks) -> None:
        """Begin the first interval."""
        if not self.options.interval:
            raise GenericError(f"Property '{self.type_name}.interval' requires a positive value")
        self._kept: list[tuple[NetClient, Frames]] = []
        self._count = 0
        if self.is_on:
            self._arm()

    def shut_down(self) -> None:
        """What is kept leaves."""
        self._cancel()
        self._release()

    def handle(self, frames: Frames, sender: NetClient) -> Frames:
        """Keep them."""
        frames = frames[: QUEUE_LIMIT - self._count]
        self._count += len(frames)
        self._kept.append((sender, frames))
        return []

    def status_changed(self) -> None:
        """What is kept leaves when the filter is switched off."""
        self._cancel()
        if self.is_on:
            self._arm()
        else:
            self._release()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.options.interval / 1e6, self._passed)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _passed(self) -> None:
        self._arm()
        self._release()

    def _release(self) -> None:
        kept, self._kept = self._kept, []
        self._count = 0
        for sender, frames in kept:
            self.inject(frames, sender)

"""Memory to a channel: once while the guest runs, again for what it has changed, and so on.

sender = Sender(channel, regions, statistics, options, vm, on_pass)
await sender.send_live()                # until it is time to stop the guest
await sender.send_pass(limited=False)   # the rest
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qemud.block.pool import pool
from qemud.migration.passes import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud.machine.memory import Section as Region
    from qemud.machine.vm import VirtualMachine
    from qemud.migration.channel import Channel
    from qemud.migration.options import Options
    from qemud.migration.statistics import Statistics

_PATIENCE = 2
"""Passes that may be in vain before the guest is stopped all the same."""
_HELPS = 0.9
"""A pass is in vain unless the expected downtime is less than this part of the best before."""
_NAP = 0.1
"""Seconds after which a limit that has been changed is seen, at most."""


class Sender:
    """See the module.  `on_pass` is called when memory is about to be looked at once more."""

    def __init__(  # noqa: PLR0917 - what sending takes
        self,
        channel: Channel,
        regions: Sequence[Region],
        numbers: Statistics,
        options: Options,
        vm: VirtualMachine,
        on_pass: Callable[[], None],
    ) -> None:
        self.channel = channel
        self._tracker = Tracker(regions)
        self._numbers = numbers
        self._options = options
        self._vm = vm
        self._on_pass = on_pass

    async def measure(self) -> int:
        """Bytes of memory in which there may be something."""
        return await pool.run(self._tracker.size)

    async def write(self, parts: Sequence[bytes]) -> None:
        """Write, and count.  OSError."""
        await self.channel.write(parts)
        self._numbers.sent(sum(map(len, parts)))

    async def send_live(self) -> None:
        """Send what changes until it is little, or does not become less.  OSError."""
        best, in_vain = float("inf"), 0
        while in_vain < _PATIENCE:
            await self.send_pass(limited=True)
            parameters, running = self._options.parameters, self._vm.running
            expected = self._numbers.expect_downtime(
                parameters.avail_switchover_bandwidth or 0, running=running
            )
            if not running or expected * 1000 <= (parameters.downtime_limit or 0):
                return
            in_vain = in_vain + 1 if expected > best * _HELPS else 0
            best = min(best, expected)

    async def send_pass(self, *, limited: bool) -> None:
        """Send all that has changed; as fast as `max-bandwidth` allows if it is limited.  OSError."""
        self._on_pass()
        numbers = self._numbers
        numbers.begin_pass()
        looking = self._tracker.look()
        while True:
            with numbers.looking():
                batch = await pool.run(next, looking, None)
            if batch is None:
                break
            numbers.looked(batch)
            if batch.parts:
                with numbers.sending():
                    await self.write(batch.parts)
            if limited:
                await self._keep_to_limit()
        numbers.end_pass()

    async def _keep_to_limit(self) -> None:
        """Wait until as much may have been sent as was."""
        while True:
            pause = self._numbers.ahead(self._options.parameters.max_bandwidth or 0)
            if pause <= 0:
                return
            await asyncio.sleep(min(pause, _NAP))

"""The machine with its disks standing still as a whole, for a moment: nothing changes in it, from inside or outside."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from qemud.machine.mailbox import Closed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qemud.machine.services import Services


@asynccontextmanager
async def still(services: Services) -> AsyncIterator[None]:
    """Nothing changes in the machine and its disks inside of this.  The machine is stopped."""
    mailboxes = services.vm.mailboxes
    async with contextlib.AsyncExitStack() as stack:
        if services.has_block:
            from qemud.block import whole as disks_of

            await stack.enter_async_context(disks_of.held(services.block))
        try:
            # Inside, since a call that is cancelled is made all the same.
            await mailboxes.call(mailboxes.freeze)
            yield
        finally:
            with contextlib.suppress(Closed):
                await mailboxes.call(mailboxes.thaw)

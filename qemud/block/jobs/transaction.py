"""Transactions: several actions at one moment, all of them or none.

    await transact(jobs, actions, grouped=False, clock=clock)

Each action *prepares*: it does what can fail, in a way that can be undone.  When all have, each *commits*, which cannot fail; when one fails,
those before it *abort*.  Either way the last comes first, and in the end each lets go of what it has held.

Source of rules and texts: QEMU 10.0, blockdev.c.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from qemud.block.jobs.manager import Group, Jobs
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from qemud._generated.types.transaction import TransactionAction
    from qemud.block.graph import Graph

_BACKUPS = frozenset({"blockdev-backup", "drive-backup"})

_ACTIONS = {
    "abort": "qemud.block.jobs.transaction:AbortAction",
    "block-dirty-bitmap-add": "qemud.block.jobs.bitmap_actions:AddBitmap",
    "block-dirty-bitmap-remove": "qemud.block.jobs.bitmap_actions:RemoveBitmap",
    "block-dirty-bitmap-clear": "qemud.block.jobs.bitmap_actions:ClearBitmap",
    "block-dirty-bitmap-enable": "qemud.block.jobs.bitmap_actions:EnableBitmap",
    "block-dirty-bitmap-disable": "qemud.block.jobs.bitmap_actions:DisableBitmap",
    "block-dirty-bitmap-merge": "qemud.block.jobs.bitmap_actions:MergeBitmaps",
    "blockdev-backup": "qemud.block.jobs.backup_actions:BlockdevBackupAction",
    "blockdev-snapshot": "qemud.block.jobs.snapshots:SnapshotAction",
    "blockdev-snapshot-internal-sync": "qemud.block.jobs.snapshots:InternalSnapshotAction",
    "blockdev-snapshot-sync": "qemud.block.jobs.snapshots:SnapshotSyncAction",
    "drive-backup": "qemud.block.jobs.backup_actions:DriveBackupAction",
}


class Context:
    """What actions need besides their arguments."""

    def __init__(
        self, jobs: Jobs, group: Group | None = None, clock: Callable[[], Awaitable[int]] | None = None
    ) -> None:
        self.jobs = jobs
        self.graph: Graph = jobs.graph
        self.group = group
        """The group of all jobs of the transaction, if they complete together."""
        self.clock = clock
        """Virtual time, nanoseconds."""


class Action:
    """Something that a transaction does; `data` are the arguments of the command of that name."""

    def __init__(self, context: Context, data: Any) -> None:
        self.context = context
        self.graph = context.graph
        self.data = data

    async def prepare(self) -> None:
        """Do what can fail.  GenericError; `abort` and `clean` are called then too."""

    async def commit(self) -> None:
        """Let it have its effect."""

    async def abort(self) -> None:
        """Undo what `prepare` has done, as far as it came."""

    async def clean(self) -> None:
        """Let go of everything."""


class AbortAction(Action):
    """The action that fails."""

    async def prepare(self) -> None:
        """As in the base."""
        raise GenericError("Transaction aborted using Abort action")


@asynccontextmanager
async def all_drained(graph: Graph) -> AsyncIterator[None]:
    """Nothing is under way in any node."""
    nodes = list(graph.nodes.values())
    for node in nodes:
        node.drain_begin()
    try:
        for node in nodes:
            await node.until_idle()
        yield
    finally:
        for node in nodes:
            node.drain_end()


async def carry_out(graph: Graph, actions: Sequence[Action]) -> None:
    """Do all of these, or nothing.  GenericError."""
    async with all_drained(graph):
        pass
    begun: list[Action] = []
    try:
        for action in actions:
            begun.append(action)
            await action.prepare()
    except BaseException:
        for action in reversed(begun):
            await action.abort()
            await action.clean()
        raise
    for action in reversed(begun):
        await action.commit()
    for action in reversed(begun):
        await action.clean()


async def transact(
    jobs: Jobs,
    actions: Sequence[TransactionAction],
    *,
    grouped: bool,
    clock: Callable[[], Awaitable[int]] | None = None,
) -> None:
    """`transaction`.  GenericError."""
    from importlib import import_module

    group = None
    if grouped:
        for each in actions:
            if each.type.value not in _BACKUPS:
                raise GenericError(
                    f"Action '{each.type.value}' does not support transaction property completion-mode = grouped"
                )
        group = Group()
    context = Context(jobs, group, clock)
    made = []
    for each in actions:
        module, _, name = _ACTIONS[each.type.value].partition(":")
        wrapper: Any = each  # all kinds have `data`
        made.append(getattr(import_module(module), name)(context, wrapper.data))
    await carry_out(jobs.graph, made)

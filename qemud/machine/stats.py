"""The commands of `stats.json`: what there is to count, and the counts.

The host's scheduler counts for us how long the machine thread has run and how long it has waited for a processor of the host;
asking costs the guest nothing.

Source: Linux 6.12, Documentation/scheduler/sched-stats.rst, section "/proc/<pid>/schedstat".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qemud._generated.commands.stats import StatsCommands
from qemud._generated.types.stats import (
    Stats,
    StatsFilterVcpu,
    StatsProvider,
    StatsResult,
    StatsSchema,
    StatsSchemaValue,
    StatsTarget,
    StatsType,
    StatsUnit,
)

if TYPE_CHECKING:
    from qemud._generated.types.stats import StatsFilter
    from qemud.machine.services import Services

_VCPU_TIMES = ("run-time", "wait-time")
"""The first two fields of schedstat: ns on a processor of the host, and ns that the thread could have been but was not."""


class StatsHandlers(StatsCommands):
    """Handlers of `stats.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_stats(self, arg: StatsFilter) -> list[StatsResult]:
        """`query-stats`."""
        if not isinstance(arg, StatsFilterVcpu):
            return []
        names = _wanted(arg)
        paths = [
            node.path
            for node in self._services.tree.root.walk()
            if node.is_a("cpu") and (arg.vcpus is None or node.path in arg.vcpus)
        ]
        if not names or not paths:
            return []
        times = _times(self._services.vm.executor.thread_id)
        # There is one thread for all processors.
        stats = [Stats(name=name, value=times[name]) for name in names if name in times]
        return [StatsResult(provider=StatsProvider.MACHINE, qom_path=path, stats=stats) for path in paths]

    async def query_stats_schemas(self, *, provider: StatsProvider | None) -> list[StatsSchema]:
        """`query-stats-schemas`."""
        if provider is StatsProvider.KVM:
            return []
        values = [
            StatsSchemaValue(
                name=name, type=StatsType.CUMULATIVE, unit=StatsUnit.SECONDS, base=10, exponent=-9
            )
            for name in _VCPU_TIMES
        ]
        return [StatsSchema(provider=StatsProvider.MACHINE, target=StatsTarget.VCPU, stats=values)]


def _wanted(asked: StatsFilter) -> list[str]:
    """The statistics that a filter lets through."""
    if asked.providers is None:
        return list(_VCPU_TIMES)
    lists = [given.names for given in asked.providers if given.provider is StatsProvider.MACHINE]
    return [name for name in _VCPU_TIMES if any(names is None or name in names for names in lists)]


def _times(thread: int) -> dict[str, int]:
    """What the scheduler has counted for a thread of this process; nothing where the host's kernel does not count."""
    try:
        fields = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
    except OSError:
        return {}
    return dict(zip(_VCPU_TIMES, map(int, fields), strict=False))

"""Limits of how much disks are used: bytes and requests in a second, with bursts, for groups of drives and nodes.

Each limit is a bucket that leaks at the limit's rate.  A request may begin when no bucket is too full, and then fills them; so a large one
is never cut, and whoever comes after it waits.  Members of a group share its buckets, and those who wait are served in their order.

    group = group_of("g")               # made when it is first asked for
    group.configure(Limits({"bps-total": 1 << 20}))
    limiter = Limiter(group)            # one for each member
    await limiter.wait(4096, write=True)

Source of the arithmetic, of rules and texts: QEMU 10.0, util/throttle.c, block/throttle-groups.c and block/qapi-system.c.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemud._generated.types.block_info import BlockDeviceInfo
    from qemud.block.backend import BlockBackend

NANOSECONDS = 1_000_000_000
VALUE_MAX = 1_000_000_000_000_000

BUCKETS = ("bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write")
_FOR_READS = ("bps-total", "iops-total", "bps-read", "iops-read")
_FOR_WRITES = ("bps-total", "iops-total", "bps-write", "iops-write")
_OLD_NAMES = {
    "bps": "bps-total",
    "bps_rd": "bps-read",
    "bps_wr": "bps-write",
    "iops": "iops-total",
    "iops_rd": "iops-read",
    "iops_wr": "iops-write",
}
"""What limits of drives are called in `block_set_io_throttle`."""


class Limits:
    """A set of limits, by the names of ThrottleLimits; what is absent has no limit.  GenericError: they contradict."""

    def __init__(self, values: Mapping[str, int]) -> None:
        self.size = values.get("iops-size", 0)
        """Up to how many bytes a request counts as one; 0: any number."""
        self.average = {name: values.get(name, 0) for name in BUCKETS}
        self.burst = {name: values.get(f"{name}-max", 0) for name in BUCKETS}
        self.length = {name: values.get(f"{name}-max-length", 1) for name in BUCKETS}
        """How long a burst may be, seconds."""
        self._check()

    def __bool__(self) -> bool:
        return any(self.average.values())

    def values(self) -> dict[str, int]:
        """All of them, as `Limits` takes them."""
        found = {"iops-size": self.size}
        for name in BUCKETS:
            found[name] = self.average[name]
            found[f"{name}-max"] = self.burst[name]
            found[f"{name}-max-length"] = self.length[name]
        return found

    def _check(self) -> None:
        for row in (self.average, self.burst):
            for kind in ("bps", "iops"):
                if row[f"{kind}-total"] and (row[f"{kind}-read"] or row[f"{kind}-write"]):
                    raise GenericError(
                        "bps/iops/max total values and read/write values cannot be used at the same time"
                    )
        if self.size and not any(self.average[name] for name in BUCKETS if name.startswith("iops")):
            raise GenericError("iops size requires an iops value to be set")
        for name in BUCKETS:
            average, burst, length = self.average[name], self.burst[name], self.length[name]
            if not (0 <= average <= VALUE_MAX and 0 <= burst <= VALUE_MAX):
                raise GenericError(f"bps/iops/max values must be within [0, {VALUE_MAX}]")
            if not length:
                raise GenericError("the burst length cannot be 0")
            if length > 1 and not burst:
                raise GenericError("burst length set without burst rate")
            if length < 0 or (burst and length > VALUE_MAX // burst):
                raise GenericError("burst length too high for this burst rate")
            if burst and not average:
                raise GenericError("bps_max/iops_max require corresponding bps/iops values")
            if burst and burst < average:
                raise GenericError("bps_max/iops_max cannot be lower than bps/iops")


class _Bucket:
    """How full one limit is; `burst` is about the rate of bursts alone."""

    __slots__ = ("average", "burst_level", "length", "level", "most")

    def __init__(self, limits: Limits, name: str) -> None:
        self.average = limits.average[name]
        self.most = limits.burst[name]
        self.length = limits.length[name]
        self.level = self.burst_level = 0.0

    def leak(self, elapsed: int) -> None:
        """Some ns have passed."""
        self.level = max(0.0, self.level - self.average * elapsed / NANOSECONDS)
        if self.length > 1:
            self.burst_level = max(0.0, self.burst_level - self.most * elapsed / NANOSECONDS)

    def fill(self, units: float) -> None:
        """A request begins."""
        self.level += units
        if self.length > 1:
            self.burst_level += units

    def wait(self) -> int:
        """How long nothing may begin, ns."""
        if not self.average:
            return 0
        # Without bursts a tenth of a second's worth is let through all the same, or every second request would wait.
        room = self.most * self.length if self.most else self.average / 10
        if self.level > room:
            return int((self.level - room) * NANOSECONDS / self.average)
        if self.length > 1 and self.burst_level > self.most / 10:
            return int((self.burst_level - self.most / 10) * NANOSECONDS / self.most)
        return 0


class Owner(Protocol):
    """The object that stands for a group: `qemud.block.objects.ThrottleGroup`."""

    def hold(self) -> None:
        """A member more."""

    def release(self) -> None:
        """A member less."""


class Group:
    """See the module."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.users = 0
        """Members, and the object that a client has made: the group is forgotten when there are none."""
        self.owner: Owner | None = None
        """That object; it is held by each member."""
        self.limits = Limits({})
        self._buckets = {name: _Bucket(self.limits, name) for name in BUCKETS}
        self._leaked = time.monotonic_ns()
        self._waiting: tuple[deque[_Waiter], deque[_Waiter]] = (deque(), deque())
        self._timers: list[asyncio.TimerHandle | None] = [None, None]

    def configure(self, limits: Limits) -> None:
        """Have other limits from now on; everything waits anew."""
        self.limits = limits
        self._buckets = {name: _Bucket(limits, name) for name in BUCKETS}
        for write in (False, True):
            self._stop_timer(write)
            if self._waiting[write]:
                self._serve(write)

    async def wait(self, limiter: Limiter, length: int, *, write: bool) -> None:
        """Until a request may begin."""
        queue = self._waiting[write]
        if not queue and not self._delay(write):
            self.count(length, write=write)
            return
        waiter = _Waiter(limiter, length, asyncio.get_running_loop().create_future())
        queue.append(waiter)
        if self._timers[write] is None:
            self._serve(write)
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter in queue:
                queue.remove(waiter)
            raise

    def count(self, length: int, *, write: bool) -> None:
        """A request begins."""
        size = self.limits.size
        units = length / size if size and length > size else 1.0
        for name in _FOR_WRITES if write else _FOR_READS:
            self._buckets[name].fill(length if name.startswith("bps") else units)

    def release(self, limiter: Limiter) -> None:
        """Let everything of a member begin."""
        for write, queue in enumerate(self._waiting):
            for waiter in [each for each in queue if each.limiter is limiter]:
                queue.remove(waiter)
                self._begin(waiter, write=bool(write))

    def _delay(self, write: bool) -> int:
        now = time.monotonic_ns()
        elapsed, self._leaked = now - self._leaked, now
        if elapsed > 0:
            for bucket in self._buckets.values():
                bucket.leak(elapsed)
        return max(self._buckets[name].wait() for name in (_FOR_WRITES if write else _FOR_READS))

    def _serve(self, write: bool) -> None:
        self._timers[write] = None
        queue = self._waiting[write]
        while queue:
            delay = self._delay(write)
            if delay:
                loop = asyncio.get_running_loop()
                self._timers[write] = loop.call_later(delay / NANOSECONDS, self._serve, write)
                return
            self._begin(queue.popleft(), write=write)

    def _begin(self, waiter: _Waiter, *, write: bool) -> None:
        if not waiter.future.done():
            self.count(waiter.length, write=write)
            waiter.future.set_result(None)

    def _stop_timer(self, write: bool) -> None:
        timer, self._timers[write] = self._timers[write], None
        if timer is not None:
            timer.cancel()


class _Waiter:
    """A request that may not begin yet."""

    __slots__ = ("future", "length", "limiter")

    def __init__(self, limiter: Limiter, length: int, future: asyncio.Future[None]) -> None:
        self.limiter = limiter
        self.length = length
        self.future = future


class Limiter:
    """A member of a group; the `Throttle` of a backend."""

    def __init__(self, group: Group) -> None:
        self.group = group
        group.users += 1
        self._owner = group.owner
        if self._owner is not None:
            self._owner.hold()
        self._suspended = 0

    def close(self) -> None:
        """Leave the group."""
        self.group.release(self)
        leave(self.group)
        if self._owner is not None:
            self._owner.release()

    async def wait(self, length: int, *, write: bool) -> None:
        """Until a request of so many bytes may begin."""
        if self._suspended:
            self.group.count(length, write=write)
        else:
            await self.group.wait(self, length, write=write)

    def suspend(self) -> None:
        """Let everything that waits begin, and do not limit until `resume`."""
        self._suspended += 1
        self.group.release(self)

    def resume(self) -> None:
        """See `suspend`."""
        self._suspended -= 1

    def tell(self, info: BlockDeviceInfo) -> None:
        """Put the limits into what clients are told of the drive."""
        limits = self.group.limits
        for old, name in _OLD_NAMES.items():
            setattr(info, old, limits.average[name])
            if limits.burst[name]:
                setattr(info, f"{old}_max", limits.burst[name])
                setattr(info, f"{old}_max_length", limits.length[name])
        if limits.size:
            info.iops_size = limits.size
        info.group = self.group.name


_GROUPS: dict[str, Group] = {}
"""The groups of this process, by name."""


def find_group(name: str) -> Group | None:
    """The group of that name, if there is one."""
    return _GROUPS.get(name)


def group_of(name: str) -> Group:
    """The group of that name; a new one has no limits.  Count as a user of it, or make a `Limiter`."""
    group = _GROUPS.get(name)
    if group is None:
        group = _GROUPS[name] = Group(name)
    return group


def leave(group: Group) -> None:
    """A user is gone; so is the group, after the last one."""
    group.users -= 1
    if not group.users and _GROUPS.get(group.name) is group:
        del _GROUPS[group.name]


def limit(backend: BlockBackend, limits: Limits, group_name: str | None, own_name: str) -> None:
    """Give a drive limits, those of its group: the one that it is in, one that is named, or one of its own name."""
    limiter: Any = backend.throttle
    if not limits:
        backend.throttle = None
        if limiter is not None:
            limiter.close()
        return
    wanted = group_name or (own_name if limiter is None else limiter.group.name)
    if limiter is None or limiter.group.name != wanted:
        new = Limiter(group_of(wanted))
        backend.throttle = new
        if limiter is not None:
            limiter.close()
        limiter = new
    limiter.group.configure(limits)


def limits_from_old_names(values: Mapping[str, int | None]) -> Limits:
    """The limits in the arguments of `block_set_io_throttle`.  GenericError."""
    found: dict[str, int] = {}
    for old, name in _OLD_NAMES.items():
        for old_end, end in (("", ""), ("_max", "-max"), ("_max_length", "-max-length")):
            value = values.get(old + old_end)
            if value is not None:
                found[name + end] = value
    if (size := values.get("iops_size")) is not None:
        found["iops-size"] = size
    return Limits(found)

"""What mail costs a guest that computes, and how soon it is read: the mailbox, the kick and the machine thread alone.

A guest counts in a loop.  One thread of the same process posts 50,000 times a second, in bursts of as many as are due each
time it wakes; the guest's speed then is compared with its speed in peace.  The latencies are those of single posts.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.clock import VirtualClock
    from qemud.machine.mailbox import Mailboxes
    from qemud.machine.vcpu import Vcpu

ROWS = (
    Row(
        "slower",
        "a computing guest under 50,000 posts a second: time taken, in peace = 1",
        "x",
        2,
        absolute=True,
    ),
    Row("read", "a post to a computing guest, until it is read, p50", "us", 200, absolute=True),
    Row("read_p99", "the same, p99", "us", 5000, absolute=True),
    Row(
        "late",
        "a timer every millisecond in a computing guest: how late it fires, p50",
        "us",
        200,
        absolute=True,
    ),
)
RATE = 50_000
TURNS = 5
SECONDS = 0.3
RAM = 0x8000_0000
COUNT = bytes.fromhex("13051500 6ff0dfff")  # loop: addi a0, a0, 1; j loop
A0 = 10


def sample(program: str) -> dict[str, float]:
    if "qemud" not in Path(program).name:
        return {}
    return asyncio.run(_measure())


async def _measure() -> dict[str, float]:
    from qemud.accel import create_vcpu
    from qemud.machine.clock import VirtualClock
    from qemud.machine.memory import AddressSpace, RamBlock
    from qemud.machine.thread import MachineThread

    thread, space, clock, ram = MachineThread(), AddressSpace(), VirtualClock(), RamBlock("ram", 1 << 20)

    def build() -> Vcpu:
        space.add_ram("ram", RAM, ram)
        vcpu = create_vcpu(space)
        thread.attach_clock(clock)
        thread.attach(vcpu)
        space.write_physical(RAM, COUNT)
        vcpu.reset(pc=RAM)
        clock.start()
        thread.resume()
        return vcpu

    thread.start()
    call = thread.mailboxes.call
    vcpu = await call(build)

    async def speed() -> float:
        first, began = await call(vcpu.gpr, A0), time.perf_counter()
        await asyncio.sleep(SECONDS)
        last, ended = await call(vcpu.gpr, A0), time.perf_counter()
        return (last - first) / (ended - began)

    peace, mail = [], []
    for _ in range(TURNS):  # in turn, since other programs disturb both
        peace.append(await speed())
        ending = threading.Event()
        poster = threading.Thread(target=_post, args=(thread.mailboxes, ending))
        poster.start()
        mail.append(await speed())
        ending.set()
        await asyncio.to_thread(poster.join)
    result = {"slower": statistics.median(peace) / statistics.median(mail)}

    delays: list[float] = []
    for _ in range(1000):
        posted = time.perf_counter()
        await call(lambda posted=posted: delays.append((time.perf_counter() - posted) * 1e6))
    result["read"] = statistics.median(delays)
    result["read_p99"] = statistics.quantiles(delays, n=100)[98]
    result["late"] = statistics.median(await _lateness(call, clock))
    await thread.end()
    vcpu.close()
    ram.close()
    return result


def _post(mailboxes: Mailboxes, ending: threading.Event) -> None:
    """50,000 posts a second, whatever the timer's grain."""
    began, done = time.perf_counter(), 0
    got: list[int] = []
    while not ending.is_set():
        due = int((time.perf_counter() - began) * RATE)
        for number in range(done, due):
            mailboxes.post(got.append, number)
        done = due
        time.sleep(0.0001)


async def _lateness(call: Callable[..., Any], clock: VirtualClock) -> list[float]:
    done, due = asyncio.Event(), [0]
    late: list[float] = []
    loop = asyncio.get_running_loop()

    def fire() -> None:
        late.append((clock.now() - due[0]) / 1e3)
        if len(late) == 300:
            loop.call_soon_threadsafe(done.set)
        else:
            arm()

    def arm() -> None:
        due[0] = clock.now() + 1_000_000
        timer.arm(due[0])

    timer = clock.timer(fire)
    await call(arm)
    await done.wait()
    return late


if __name__ == "__main__":
    for key, value in sample("qemud").items():
        print(f"{key:10} {value:10.2f}", file=sys.stdout)

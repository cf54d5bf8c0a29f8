"""Debian's kernel with a busybox initramfs: the boot, three loads in the guest, stopping it while it is busy, and idling.

Both programs get the same kernel, initramfs, command line and memory; the host stamps the lines of the console as they come.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.table import Row, percentile
from qemud.demo.debian import PROMPT
from tests.guests import BENCH_HASH, BENCHES, linux
from tests.programs import Program

ROWS = (
    Row("boot", "Debian kernel and initramfs to the shell prompt, wall", "s", 0.95),
    Row("syscalls", "guest: 100,000 syscalls", "s", 1),
    Row("fork", "guest: 60 × fork and exec", "s", 1),
    Row("sha256", "guest: sha256 of 24 MiB", "s", 1),
    Row("stop", "`stop` to STOP while the guest is busy, p99", "ms", 10, absolute=True),
    Row("idle", "host CPU of an idle guest", "%", 3, absolute=True),
)
STOPS = 200
BETWEEN_STOPS = 0.005
IDLE_SECONDS = 5.0


def sample(program: str) -> dict[str, float]:
    guest = linux()
    start = [0.0]

    def now() -> None:
        start[0] = time.perf_counter()

    with Program(
        program,
        *("-machine", "virt", "-m", "256", "-display", "none"),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", "console=ttyS0"),
        serial=True,
        watched=False,
        before=now,
    ) as running:
        running.serial.expect(PROMPT)
        result = {"boot": time.perf_counter() - start[0]}
        running.serial.send(b"bench\r")
        for name in BENCHES:
            running.serial.expect(f"BENCH {name} begin\r\n")
            begin = time.perf_counter()
            said = running.serial.expect(f"BENCH {name} end\r\n")
            result[name] = time.perf_counter() - begin
        assert BENCH_HASH in said, "the guest's sum is wrong"
        running.serial.expect(PROMPT)
        result["idle"] = idle(running.process.pid)
        running.serial.send(b"stress 1000000\r")
        running.serial.expect("STRESS 1 ")
        result["stop"] = percentile([stop(running) for _ in range(STOPS)], 0.99) * 1e3
    return result


def stop(running: Program) -> float:
    """Seconds from sending ``stop`` to the STOP event; the guest goes on afterwards for a while."""
    start = time.perf_counter()
    running.qmp.send(b'{"execute": "stop"}')
    running.qmp.event("STOP")
    seconds = time.perf_counter() - start
    running.qmp.reply()
    running.qmp.command("cont")
    time.sleep(BETWEEN_STOPS)
    return seconds


def idle(pid: int) -> float:
    """Host CPU, in percent of one, that the process uses while its guest waits at the prompt."""
    begin, spent = time.perf_counter(), cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    return (cpu_seconds(pid) - spent) / (time.perf_counter() - begin) * 100


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

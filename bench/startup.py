"""From the start of the process to the QMP greeting, and what is resident then, without a machine."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.table import Row
from tests.programs import Program

ROWS = (
    Row("greeting", "start to the QMP greeting, `-machine none`", "ms", 5),
    Row("own", "the same, above `import uvloop` in a bare Python", "ms", 25, absolute=True),
    Row("resident", "resident memory, `-machine none`", "MiB", 1.2),
)
NO_MACHINE = ("-machine", "none", "-nodefaults", "-display", "none")


STARTS = 5


def sample(program: str) -> dict[str, float]:
    starts = [start_once(program) for _ in range(STARTS)]
    return {key: statistics.median(start[key] for start in starts) for key in starts[0]}


def start_once(program: str) -> dict[str, float]:
    start = [0.0]

    def now() -> None:
        start[0] = time.perf_counter()

    with Program(program, *NO_MACHINE, negotiate=False, watched=False, before=now) as running:
        running.qmp.message()
        greeting = (time.perf_counter() - start[0]) * 1e3
        running.qmp.command("qmp_capabilities")
        result = {"greeting": greeting, "resident": resident(running.process.pid)}
    if running.qemud:
        result["own"] = greeting - bare_python()
    return result


def bare_python() -> float:
    """Milliseconds from the start of a Python that imports uvloop to its first word."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", "import uvloop, os; os.write(1, b'!')"], stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return (time.perf_counter() - start) * 1e3


def resident(pid: int) -> float:
    """MiB of a process's memory that are in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)

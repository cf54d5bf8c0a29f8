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
    Row("cpu", "processor time until then", "ms", 5),
    Row("own_cpu", "the same, above `import uvloop` in a bare Python", "ms", 25, absolute=True),
    Row("answer", "start to the answer to `qmp_capabilities`", "ms", 5),
    Row("resident", "resident memory, `-machine none`", "MiB", 1.2),
)
NO_MACHINE = ("-machine", "none", "-nodefaults", "-display", "none")
IMPORT_UVLOOP = "import uvloop, os; os.write(1, b'!'); os.read(0, 1)"

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
        greeting, cpu = (time.perf_counter() - start[0]) * 1e3, processor_time(running.process.pid)
        running.qmp.command("qmp_capabilities")
        answer = (time.perf_counter() - start[0]) * 1e3
        result = {
            "greeting": greeting,
            "cpu": cpu,
            "answer": answer,
            "resident": resident(running.process.pid),
        }
    if running.qemud:
        bare, bare_cpu = bare_python(interpreter(program))
        result["own"] = greeting - bare
        result["own_cpu"] = cpu - bare_cpu
    return result


def interpreter(program: str) -> str:
    """The Python that a console script runs under: other environments start at other speeds."""
    with open(program, "rb") as script:
        first = script.readline().decode().strip()
    return first.removeprefix("#!") if first.startswith("#!") else sys.executable


def bare_python(python: str) -> tuple[float, float]:
    """Milliseconds from the start of a Python that imports uvloop to its first word, and of processor time until then."""
    start = time.perf_counter()
    with subprocess.Popen(
        [python, "-c", IMPORT_UVLOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        took = (time.perf_counter() - start) * 1e3
        return took, processor_time(process.pid)


def processor_time(pid: int) -> float:
    """Milliseconds that all threads of a process have run; other programs on the machine disturb it less than the clock."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def resident(pid: int) -> float:
    """MiB of a process's memory that are in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)

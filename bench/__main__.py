"""``python -m bench``: measure, print the table, write SPECIFICATION.md. Status 1 when a target is missed."""

from __future__ import annotations

import argparse
import collections
import compileall
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import qemud
from bench import control, disk, guest, net, posts, qmp, startup
from bench.table import Figure, markdown
from tests.programs import QEMU, QEMUD

BENCHES = {
    "guest": guest,
    "disk": disk,
    "net": net,
    "startup": startup,
    "qmp": qmp,
    "posts": posts,
    "control": control,
}
SPECIFICATION = Path(__file__).parents[1] / "SPECIFICATION.md"
TEXT = """\
# Specification: how fast qemud is

Measured by `python -m bench` on {date}, with {runs} runs of each program, in turn, on one machine; the figures are medians. The ratio is
qemud / QEMU. A figure here is no promise for another machine, but the ratios should hold.

- qemud {qemud} on Python {python}, uvloop {uvloop}, Unicorn {unicorn}
- {qemu}
- host: {cpu}, {cores} cores, Linux {kernel}, load {load:.1f} when it began

{table}

Each row is measured in [`bench/`](bench), which says how.
"""


def measure(modules: list[str], runs: int, program: str, reference: str) -> list[Figure]:
    """Samples of both programs, in turn; the one that begins changes from run to run."""
    figures = []
    for name in modules:
        module = BENCHES[name]
        samples: dict[bool, dict[str, list[float]]] = {
            True: collections.defaultdict(list),
            False: collections.defaultdict(list),
        }
        for run in range(runs):
            for ours in (True, False) if run % 2 == 0 else (False, True):
                for key, value in module.sample(program if ours else reference).items():
                    samples[ours][key].append(value)
            print(f"bench: {name} {run + 1}/{runs}", file=sys.stderr)
        figures += [
            Figure(row, samples[True][row.key], samples[False][row.key])
            for row in module.ROWS
            if samples[True][row.key]
        ]
    return figures


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; default: all")
    parser.add_argument("--runs", type=int, default=5, help="of each program (default: %(default)s)")
    parser.add_argument("--program", default=QEMUD, help="what to measure (default: %(default)s)")
    parser.add_argument("--reference", default=QEMU, help="what to compare with (default: %(default)s)")
    options = parser.parse_args()
    unknown = [name for name in options.modules if name not in BENCHES]
    if unknown:
        parser.error(f"no bench is called {unknown[0]}; there are {', '.join(BENCHES)}")
    version = subprocess.run(
        [options.reference, "--version"], capture_output=True, text=True, check=True
    ).stdout
    # pip compiles what it installs; an editable install may never have been.
    compileall.compile_dir(str(Path(qemud.__file__).parent), quiet=1)
    load = os.getloadavg()[0]
    figures = measure(options.modules or list(BENCHES), options.runs, options.program, options.reference)
    table = markdown(figures)
    print(table)
    if not options.modules and options.program == QEMUD:
        SPECIFICATION.write_text(
            TEXT.format(
                date=subprocess.run(["date", "-I"], capture_output=True, text=True).stdout.strip(),
                runs=options.runs,
                qemud=qemud.__version__,
                python=platform.python_version(),
                uvloop=importlib.metadata.version("uvloop"),
                unicorn=importlib.metadata.version("unicorn"),
                qemu=version.splitlines()[0],
                cpu=cpu_model(),
                cores=os.cpu_count(),
                kernel=platform.release(),
                load=load,
                table=table,
            )
        )
    return 0 if all(figure.met() for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())

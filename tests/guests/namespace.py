"""Programs of another architecture, run as root of a user namespace: nothing is registered with the machine.

Since Linux 6.7 each user namespace may have a binfmt_misc of its own.  `run` makes a namespace with its own users, mounts and
processes, tells it that riscv64 programs are run by qemu-user-static, and runs a shell script there.  As root of the machine the
namespace has the machine's users; another user needs ranges in ``/etc/subuid`` and ``/etc/subgid``, and ``newuidmap``.

On an older kernel only root can do it: the interpreter is registered with the machine, until it is started again.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BINFMT = Path("/proc/sys/fs/binfmt_misc")
RULES = Path("/usr/lib/binfmt.d/qemu-riscv64.conf")
"""How qemu-user-static's package describes riscv64 programs, in the form that the kernel takes."""

USERS = 65536

PREPARE = f"""\
if [ -e {BINFMT}/qemu-riscv64 ]; then exit 0; fi
mount -t binfmt_misc binfmt_misc {BINFMT}
grep --no-messages --no-filename riscv64 {RULES} > {BINFMT}/register
"""
WITHIN = f"""\
echo ready
read go
exec setpriv --reuid 0 --regid 0 --clear-groups sh -ec '
    mount -t proc proc /proc
    ( {PREPARE} )
    . "$0"
' "$0" 2>&1
"""


class BuildError(Exception):
    """Why a guest could not be made, with the last lines of what the tools said."""


def run(script: Path, environment: Mapping[str, str]) -> None:
    """Run a shell script as root of a new namespace.  Raises BuildError when a command in it fails."""
    if not RULES.exists():
        raise BuildError(f"{RULES} is missing: qemu-user-static is not installed")
    root = os.geteuid() == 0
    if root and not _own_binfmt():
        subprocess.run(["sh", "-ec", PREPARE], check=True)
    users = [] if root else ["--map-root-user", "--map-auto"]
    process = subprocess.Popen(
        ["unshare", "--user", *users, "--mount", "--pid", "--fork", "sh", "-c", WITHIN, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **environment, "LC_ALL": "C.UTF-8"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        # The first word comes when the namespace exists; it has no root before the map is there.
        process.stdout.readline()
        if root:
            _map_users(process.pid)
        process.stdin.write("go\n")
        process.stdin.close()
        said = process.stdout.read()
    if process.returncode:
        raise BuildError(f"{script.name} ended with status {process.returncode}: {said[-4000:]}")


def _own_binfmt() -> bool:
    """Whether namespaces have their own binfmt_misc."""
    release = os.uname().release.split(".")
    return (int(release[0]), int(release[1].partition("-")[0])) >= (6, 7)


def _map_users(parent: int) -> None:
    """Give the namespace of the child of `parent` the machine's users."""
    [child] = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for kind in ("uid", "gid"):
        Path(f"/proc/{child}/{kind}_map").write_text(f"0 0 {USERS}\n")

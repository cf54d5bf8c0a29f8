"""Snapshots of the whole machine, for people.

Source: QEMU 10.0, migration/migration-hmp-cmds.c, block/monitor/block-hmp-cmds.c and block/qapi.c (bdrv_snapshot_dump), for texts and
layout.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_HEADING = f"{'ID':<7} {'TAG':<16} {'VM_SIZE':>8} {'DATE':>19} {'VM_CLOCK':>15} {'ICOUNT':>10}\n"


async def save(shell: Shell, arguments: dict[str, Any]) -> None:
    """`savevm`."""
    await shell.qmp("x-savevm", {"tag": arguments["name"]} if "name" in arguments else {})


async def load(shell: Shell, arguments: dict[str, Any]) -> None:
    """`loadvm`."""
    await shell.qmp("x-loadvm", {"tag": arguments["name"]})


async def delete(shell: Shell, arguments: dict[str, Any]) -> None:
    """`delvm`."""
    await shell.qmp("x-delvm", {"tag": arguments["name"]})


async def info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info snapshots`."""
    try:
        listed = await shell.qmp("x-query-snapshots")
    except GenericError as error:
        shell.print(f"{error}\n")  # QEMU reports this one as errors at the start are
        return
    if not listed["common"] and not listed["partial"]:
        shell.print("There is no snapshot available.\n")
        return
    shell.print("List of snapshots present on all disks:\n")
    if listed["common"]:
        # The number need not be the same in all images.
        shell.print(_HEADING + "".join(_line({**each, "id": "--"}) for each in listed["common"]))
    else:
        shell.print("None\n")
    for image in listed["partial"]:
        shell.print(f"\nList of partial (non-loadable) snapshots on '{image['device']}':\n")
        shell.print(_HEADING + "".join(map(_line, image["snapshots"])))


def _line(snapshot: dict[str, Any]) -> str:
    seconds = snapshot["vm-clock-sec"]
    clock = (
        f"{seconds // 3600:04}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        f".{snapshot['vm-clock-nsec'] // 1000000:03}"
    )
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot["date-sec"]))
    return (
        f"{snapshot['id']:<7} {snapshot['name']:<16} {size_text(snapshot['vm-state-size']):>8} "
        f"{date:>19} {clock:>15} {snapshot.get('icount', '--'):>10}\n"
    )


def size_text(size: int) -> str:
    """A number of bytes with three digits, as QEMU shows it."""
    # 1000 KiB is 0.977 MiB: the unit changes where the number would have four digits.
    exponent = max(0, (math.frexp(size / (1000 / 1024))[1] - 1) // 10)
    return f"{size / (1 << 10 * exponent):.3g} {_UNITS[min(exponent, len(_UNITS) - 1)]}"

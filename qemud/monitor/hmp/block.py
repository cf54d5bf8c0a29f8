"""Commands about disks.

Source: QEMU 10.0, block/monitor/block-hmp-cmds.c and block/qapi.c (bdrv_node_info_dump), for texts and layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.monitor.hmp.shell import Shell

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_LIMITS = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
_ALL_LIMITS = (
    *("bps", "bps_rd", "bps_wr", "bps_max", "bps_rd_max", "bps_wr_max"),
    *("iops", "iops_rd", "iops_wr", "iops_max", "iops_rd_max", "iops_wr_max", "iops_size"),
)
_COUNTERS = (
    *("rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "flush_operations", "wr_total_time_ns"),
    *("rd_total_time_ns", "flush_total_time_ns", "rd_merged", "wr_merged", "idle_time_ns"),
)


async def info(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info block`: the drives, or with -n the nodes; one of them, or all."""
    device = arguments.get("device")
    verbose = arguments.get("verbose", False)
    printed = False
    if not arguments.get("nodes"):
        for number, drive in enumerate(await shell.qmp("query-block")):
            if device in {None, drive["device"]}:
                shell.print("\n" if number else "")
                shell.print("".join(_drive(drive, drive.get("inserted"), verbose=verbose)))
                printed = True
        if device is None or printed:
            return
    for number, node in enumerate(await shell.qmp("query-named-block-nodes")):
        if device in {None, node["node-name"]}:
            shell.print("\n" if number else "")
            shell.print("".join(_drive(None, node, verbose=verbose)))


def _drive(drive: dict[str, Any] | None, inserted: dict[str, Any] | None, *, verbose: bool) -> Iterator[str]:
    """A drive with its medium, or a node."""
    node = inserted["node-name"] if inserted is not None else None
    if drive is not None and drive["device"]:
        yield drive["device"] + (f" ({node})" if node else "")
    else:
        yield node or (drive or {}).get("qdev") or "<anonymous>"
    if inserted is None:
        yield ": [not inserted]\n"
    else:
        marks = "".join(
            f", {mark}"
            for mark, given in (
                ("read-only", inserted["ro"]),
                ("encrypted", inserted["encrypted"]),
                ("inactive", not inserted["active"]),
            )
            if given
        )
        yield f": {inserted['file']} ({inserted['drv']}{marks})\n"
    if drive is not None:
        yield from _device(drive)
    if inserted is not None:
        yield from _medium(inserted)
        if verbose:
            yield "\nImages:\n"
            image = inserted["image"]
            while image is not None:
                yield from _image(image)
                image = image.get("backing-image")


def _device(drive: dict[str, Any]) -> Iterator[str]:
    if "qdev" in drive:
        yield f"    Attached to:      {drive['qdev']}\n"
    if drive.get("io-status", "ok") != "ok":
        yield f"    I/O status:       {drive['io-status']}\n"
    if drive["removable"]:
        locked = "" if drive["locked"] else "not "
        yield f"    Removable device: {locked}locked, tray {'open' if drive.get('tray_open') else 'closed'}\n"


def _medium(inserted: dict[str, Any]) -> Iterator[str]:
    cache = inserted["cache"]
    mode = "writeback" if cache["writeback"] else "writethrough"
    mode += ", direct" if cache["direct"] else ""
    mode += ", ignore flushes" if cache["no-flush"] else ""
    yield f"    Cache mode:       {mode}\n"
    if "backing_file" in inserted:
        depth = inserted["backing_file_depth"]
        yield f"    Backing file:     {inserted['backing_file']} (chain depth: {depth})\n"
    if inserted["detect_zeroes"] != "off":
        yield f"    Detect zeroes:    {inserted['detect_zeroes']}\n"
    if any(inserted[name] for name in _LIMITS):
        limits = " ".join(f"{name}={inserted.get(name, 0)}" for name in _ALL_LIMITS)
        yield f"    I/O throttling:   {limits} group={inserted.get('group', '')}\n"


def _image(image: dict[str, Any]) -> Iterator[str]:
    size = image.get("actual-size")
    yield (
        f"image: {image['filename']}\n"
        f"file format: {image['format']}\n"
        f"virtual size: {human_size(image['virtual-size'])} ({image['virtual-size']} bytes)\n"
        f"disk size: {'unavailable' if size is None else human_size(size)}\n"
    )
    if image.get("encrypted"):
        yield "encrypted: yes\n"
    if "cluster-size" in image:
        yield f"cluster_size: {image['cluster-size']}\n"
    if image.get("dirty-flag"):
        yield "cleanly shut down: no\n"
    if "backing-filename" in image:
        name, full = image["backing-filename"], image.get("full-backing-filename")
        where = " (cannot determine actual path)" if full is None else f" (actual path: {full})"
        yield f"backing file: {name}{'' if full == name else where}\n"
        if "backing-filename-format" in image:
            yield f"backing file format: {image['backing-filename-format']}\n"
    data = image.get("format-specific", {}).get("data")
    if data:
        yield "Format specific information:\n"
        yield from _dump(data, 1)


def _dump(value: dict[str, Any], depth: int) -> Iterator[str]:
    """A struct as lines, what is in it further to the right."""
    margin = "    " * depth
    for key, each in value.items():
        name = key.replace("-", " ")
        if isinstance(each, dict):
            yield f"{margin}{name}:\n"
            yield from _dump(each, depth + 1)
        elif isinstance(each, list):
            yield f"{margin}{name}:\n"
            for number, item in enumerate(each):
                below = item if isinstance(item, dict) else {str(number): item}
                yield f"{margin}    [{number}]:\n" if isinstance(item, dict) else ""
                yield from _dump(below, depth + 1 + isinstance(item, dict))
        else:
            yield f"{margin}{name}: {str(each).lower() if isinstance(each, bool) else each}\n"


def human_size(size: int) -> str:
    """A number of bytes as people read it, with three digits."""
    unit = 0
    while unit + 1 < len(_UNITS) and size >> 10 * (unit + 1) >= 1:
        unit += 1
    return f"{size / (1 << 10 * unit):.3g} {_UNITS[unit]}"


async def stats(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info blockstats`."""
    for drive in await shell.qmp("query-blockstats"):
        counters = drive["stats"]
        line = " ".join(f"{name}={counters.get(name, 0)}" for name in _COUNTERS)
        shell.print(f"{drive['device']}: {line}\n")


async def resize(shell: Shell, arguments: dict[str, Any]) -> None:
    """`block_resize`."""
    await shell.qmp("block_resize", {"device": arguments["device"], "size": arguments["size"]})


async def eject(shell: Shell, arguments: dict[str, Any]) -> None:
    """`eject`."""
    force = arguments.get("force", False)
    await shell.qmp("eject", {"device": arguments["device"], "force": force})


async def change(shell: Shell, arguments: dict[str, Any]) -> None:
    """`change`: another image into a drive."""
    given = {
        "device": arguments["device"],
        "filename": arguments["target"],
        "force": arguments.get("force", False),
    }
    if "arg" in arguments:
        given["format"] = arguments["arg"]
    mode = arguments.get("read-only-mode")
    if mode is not None:
        if mode not in {"retain", "read-only", "read-write"}:
            raise GenericError(f"invalid parameter value: {mode}")
        given["read-only-mode"] = mode
    await shell.qmp("blockdev-change-medium", given)

"""Jobs on disks, for people: commands that begin them, hold them and end them, and `info block-jobs`.

Source: QEMU 10.0, block/monitor/block-hmp-cmds.c, for texts and defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell


async def info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info block-jobs`."""
    jobs = await shell.qmp("query-block-jobs")
    if not jobs:
        shell.print("No active jobs\n")
    for job in jobs:
        what = "Streaming" if job["type"] == "stream" else f"Type {job['type']},"
        shell.print(
            f"{what} device {job['device']}: Completed {job['offset']} of {job['len']} bytes, "
            f"speed limit {job['speed']} bytes/s\n"
        )


async def set_speed(shell: Shell, arguments: dict[str, Any]) -> None:
    """`block_job_set_speed`."""
    await shell.qmp("block-job-set-speed", {"device": arguments["device"], "speed": arguments["speed"]})


async def cancel(shell: Shell, arguments: dict[str, Any]) -> None:
    """`block_job_cancel`."""
    force = arguments.get("force", False)
    await shell.qmp("block-job-cancel", {"device": arguments["device"], "force": force})


async def complete(shell: Shell, arguments: dict[str, Any]) -> None:
    """`block_job_complete`."""
    await shell.qmp("block-job-complete", {"device": arguments["device"]})


async def pause(shell: Shell, arguments: dict[str, Any]) -> None:
    """`block_job_pause`."""
    await shell.qmp("block-job-pause", {"device": arguments["device"]})


async def resume(shell: Shell, arguments: dict[str, Any]) -> None:
    """`block_job_resume`."""
    await shell.qmp("block-job-resume", {"device": arguments["device"]})


async def stream(shell: Shell, arguments: dict[str, Any]) -> None:
    """`block_stream`."""
    device = arguments["device"]
    given: dict[str, Any] = {name: arguments[name] for name in ("speed", "base") if name in arguments}
    await shell.qmp("block-stream", {"job-id": device, "device": device, **given})


def _target(arguments: dict[str, Any]) -> dict[str, Any]:
    """What `drive_mirror` and `drive_backup` have in common."""
    given: dict[str, Any] = {
        "device": arguments["device"],
        "target": arguments["target"],
        "sync": "full" if arguments.get("full") else "top",
        "mode": "existing" if arguments.get("reuse") else "absolute-paths",
    }
    if "format" in arguments:
        given["format"] = arguments["format"]
    return given


async def mirror(shell: Shell, arguments: dict[str, Any]) -> None:
    """`drive_mirror`."""
    await shell.qmp("drive-mirror", _target(arguments))


async def backup(shell: Shell, arguments: dict[str, Any]) -> None:
    """`drive_backup`."""
    await shell.qmp("drive-backup", {**_target(arguments), "compress": arguments.get("compress", False)})


async def snapshot(shell: Shell, arguments: dict[str, Any]) -> None:
    """`snapshot_blkdev`."""
    if "snapshot-file" not in arguments:
        raise GenericError("Parameter 'snapshot-file' is missing")
    given: dict[str, Any] = {
        name: arguments[name] for name in ("device", "snapshot-file", "format") if name in arguments
    }
    given["mode"] = "existing" if arguments.get("reuse") else "absolute-paths"
    await shell.qmp("blockdev-snapshot-sync", given)


async def snapshot_internal(shell: Shell, arguments: dict[str, Any]) -> None:
    """`snapshot_blkdev_internal`."""
    given = {"device": arguments["device"], "name": arguments["name"]}
    await shell.qmp("blockdev-snapshot-internal-sync", given)


async def delete_internal(shell: Shell, arguments: dict[str, Any]) -> None:
    """`snapshot_delete_blkdev_internal`."""
    given: dict[str, Any] = {name: arguments[name] for name in ("device", "name", "id") if name in arguments}
    await shell.qmp("blockdev-snapshot-delete-internal-sync", given)

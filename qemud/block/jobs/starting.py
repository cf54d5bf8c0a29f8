"""What the commands that begin jobs check, and what they make of their arguments.

Source of rules and texts: QEMU 10.0, blockdev.c.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_changes import NewImageMode
from qemud._generated.types.block_copying import BitmapSyncMode, MirrorSyncMode
from qemud.block import permission
from qemud.block.bitmaps import ALLOW_READ_ONLY
from qemud.block.internal import root_node
from qemud.block.jobs import chain
from qemud.block.reopen import set_read_only
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError

if TYPE_CHECKING:
    from qemud._generated.types.block_changes import DriveMirror
    from qemud._generated.types.block_copying import BackupCommon
    from qemud.block.graph import Graph
    from qemud.block.jobs.backup import Backup
    from qemud.block.jobs.manager import Group, Jobs
    from qemud.block.jobs.mirror_filter import MirrorSetup
    from qemud.block.node import BlockNode

_SECTOR = 512
_MAX_GRANULARITY = 64 << 20
_MIRROR_OPTIONS = (
    "job_id",
    "replaces",
    "speed",
    "granularity",
    "buf_size",
    "on_source_error",
    "on_target_error",
    "copy_mode",
    "auto_finalize",
    "auto_dismiss",
)


async def blockdev_mirror(jobs: Jobs, device: str, target: str, arguments: dict[str, Any]) -> None:
    """`blockdev-mirror`.  GenericError."""
    from qemud.block.jobs.mirror_filter import MirrorSetup

    graph = jobs.graph
    setup = MirrorSetup(root_node(graph, device), graph.lookup_any(target))
    setup.zero_target = arguments["sync"] is MirrorSyncMode.FULL
    setup.filter_node_name = arguments.pop("filter_node_name")
    await mirror(jobs, setup, arguments)


async def mirror(jobs: Jobs, setup: MirrorSetup, arguments: dict[str, Any]) -> None:
    """What `blockdev-mirror` and `drive-mirror` have in common.  GenericError."""
    from qemud.block.jobs.mirror_end import can_replace
    from qemud.block.jobs.mirror_start import start_mirror

    graph = jobs.graph
    for name in _MIRROR_OPTIONS:
        setattr(setup, name, arguments[name])
    size = setup.granularity
    if size and not _SECTOR <= size <= _MAX_GRANULARITY:
        raise GenericError("Parameter 'granularity' expects a value in range [512B, 64MB]")
    if size & (size - 1):
        raise GenericError("Parameter 'granularity' expects a power of 2")
    source = setup.source
    graph.check_not_blocked(source)
    graph.check_not_blocked(setup.target)
    sync = arguments["sync"]
    if sync is MirrorSyncMode.TOP and chain.next_layer(source) is None:
        sync = MirrorSyncMode.FULL
    if setup.replaces is None:
        shown = source
        while shown.implicit and shown.filtered is not None:
            shown = shown.filtered
        if shown is not source:
            setup.replaces = shown.node_name
    if setup.replaces is not None:
        node = graph.find_node(setup.replaces)
        if node is None:
            raise GenericError(f"Failed to find node with node-name='{setup.replaces}'")
        graph.check_not_blocked(node)
        if not can_replace(source, node):
            raise GenericError(
                f"Cannot replace '{setup.replaces}' by a node mirrored from '{source.node_name}', because it cannot be "
                "guaranteed that doing so would not lead to an abrupt change of visible data"
            )
        if node.size != source.size:
            raise GenericError("cannot replace image with a mirror image of different size")
    if sync in {MirrorSyncMode.INCREMENTAL, MirrorSyncMode.BITMAP}:
        raise GenericError(f"Sync mode '{sync.value}' not supported")
    setup.only_new = sync is MirrorSyncMode.NONE
    if sync is MirrorSyncMode.TOP:
        setup.base = chain.next_layer(source)
    await start_mirror(jobs, setup)


async def block_stream(jobs: Jobs, device: str, arguments: dict[str, Any]) -> None:
    """`block-stream`.  GenericError."""
    from qemud.block.jobs.stream import StreamSetup, start_stream

    graph = jobs.graph
    for one, other in (("base", "base_node"), ("base", "bottom"), ("bottom", "base_node")):
        if arguments[one] is not None and arguments[other] is not None:
            names = f"'{one}' and '{other}'".replace("_", "-")
            raise GenericError(f"{names} cannot be specified at the same time")
    node = graph.lookup_any(device)
    setup = StreamSetup(node)
    if (name := arguments.pop("base")) is not None:
        setup.base = chain.find_by_filename(node, name)
        if setup.base is None:
            raise GenericError(f"Can't find '{name}' in the backing chain")
    if (name := arguments.pop("base_node")) is not None:
        setup.base = graph.lookup(None, name)
        if setup.base is node or not chain.contains(node, setup.base):
            raise GenericError(f"Node '{name}' is not a backing image of '{device}'")
    if (name := arguments.pop("bottom")) is not None:
        setup.bottom = bottom = graph.lookup(None, name)
        if bottom.is_filter:
            raise GenericError(f"Node '{name}' is a filter, use a non-filter node as 'bottom'")
        if not chain.contains(node, bottom):
            raise GenericError(f"Node '{name}' is not in a chain starting from '{device}'")
    end = setup.base if setup.bottom is None else chain.below(setup.bottom)
    for each in chain.chain(node):
        if each is end:
            break
        graph.check_not_blocked(each, in_chain=True)
    if setup.base is None and arguments["backing_file"] is not None:
        raise GenericError("backing file specified, but streaming the entire chain")
    for name, value in arguments.items():
        setattr(setup, name, value)
    await start_stream(jobs, setup)


async def block_commit(jobs: Jobs, device: str, arguments: dict[str, Any]) -> None:
    """`block-commit`.  QmpError."""
    from qemud.block.jobs.blockjob import drive_name
    from qemud.block.jobs.commit import CommitSetup, start_commit

    graph = jobs.graph
    # Which class the error has is how libvirt finds out what can be done.
    try:
        active = graph.lookup_any(device)
    except GenericError as error:
        if graph.backend_by_name(device) is None:
            raise DeviceNotFound(f"Device '{device}' not found") from None
        raise error from None
    active = root_node(graph, device)
    graph.check_not_blocked(active)
    top = _commit_top(graph, active, arguments.pop("top_node"), arguments.pop("top"))
    base = _commit_base(graph, top, arguments.pop("base_node"), arguments.pop("base"))
    for each in chain.chain(top):
        graph.check_not_blocked(each, in_chain=True)
        if each is base:
            break
    if top is base:
        raise GenericError("cannot commit an image into itself")
    is_active = top.skip_filters() is active.skip_filters()
    if is_active or top.cumulative[0] & permission.WRITE:
        if arguments["backing_file"] is not None:
            reason = "'top' is the active layer" if is_active else "'top' has a writer on it"
            raise GenericError(f"'backing-file' specified, but {reason}")
        job_id = arguments["job_id"]
        await _active_commit(
            jobs, top, base, {**arguments, "job_id": drive_name(active) if job_id is None else job_id}
        )
        return
    overlay = chain.overlay_of(active, top)
    if overlay is not None:
        graph.check_not_blocked(overlay, in_chain=True)
    setup = CommitSetup(active, top, base)
    for name, value in arguments.items():
        setattr(setup, name, value)
    await start_commit(jobs, setup)


def _commit_top(graph: Graph, active: BlockNode, node_name: str | None, name: str | None) -> BlockNode:
    if node_name is not None and name is not None:
        raise GenericError("'top-node' and 'top' are mutually exclusive")
    if node_name is not None:
        top = graph.lookup(None, node_name)
        if not chain.contains(active, top):
            raise GenericError(f"'{node_name}' is not in this backing file chain")
        return top
    if name is not None and name != active.filename:
        found = chain.find_by_filename(active, name)
        if found is None:
            raise GenericError(f"Top image file {name} not found")
        return found
    return active


def _commit_base(graph: Graph, top: BlockNode, node_name: str | None, name: str | None) -> BlockNode:
    if node_name is not None and name is not None:
        raise GenericError("'base-node' and 'base' are mutually exclusive")
    if node_name is not None:
        base = graph.lookup(None, node_name)
        if not chain.contains(top, base):
            raise GenericError(f"'{node_name}' is not in this backing file chain")
        return base
    if name is not None:
        found = chain.find_by_filename(top, name)
        if found is None:
            raise GenericError(f"Can't find '{name}' in the backing chain")
        return found
    return chain.bottom(top)


async def _active_commit(jobs: Jobs, top: BlockNode, base: BlockNode, arguments: dict[str, Any]) -> None:
    from qemud.block.jobs.mirror_filter import MirrorSetup
    from qemud.block.jobs.mirror_start import start_mirror

    was_read_only = base.read_only
    if was_read_only:
        await set_read_only(jobs.graph, base, read_only=False)
    setup = MirrorSetup(top, base)
    setup.base = base
    setup.base_was_read_only = was_read_only
    setup.on_source_error = setup.on_target_error = arguments["on_error"]
    for name in ("job_id", "speed", "filter_node_name", "auto_finalize", "auto_dismiss"):
        setattr(setup, name, arguments[name])
    try:
        await start_mirror(jobs, setup)
    except GenericError:
        if was_read_only:
            with contextlib.suppress(GenericError):
                await set_read_only(jobs.graph, base, read_only=True)
        raise


async def backup(
    jobs: Jobs, arguments: BackupCommon, source: BlockNode, target: BlockNode, group: Group | None
) -> Backup:
    """What `blockdev-backup` and `drive-backup` have in common: a job that is to be started.  GenericError."""
    from qemud.block.jobs.backup import BackupSetup, make_backup

    setup = BackupSetup(source, target, arguments.sync)
    mode, name = arguments.bitmap_mode, arguments.bitmap
    if setup.sync in {MirrorSyncMode.BITMAP, MirrorSyncMode.INCREMENTAL} and name is None:
        raise GenericError(f"must provide a valid bitmap name for '{setup.sync.value}' sync mode")
    if setup.sync is MirrorSyncMode.INCREMENTAL:
        if mode not in {None, BitmapSyncMode.ON_SUCCESS}:
            raise GenericError("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'")
        mode, setup.sync = BitmapSyncMode.ON_SUCCESS, MirrorSyncMode.BITMAP
    if name is not None:
        setup.bitmap = bitmap = source.dirty_bitmaps.get(name)
        if bitmap is None:
            raise GenericError(f"Bitmap '{name}' could not be found")
        if mode is None:
            raise GenericError("Bitmap sync mode must be given when providing a bitmap")
        bitmap.check(ALLOW_READ_ONLY)
        if setup.sync is MirrorSyncMode.NONE:
            raise GenericError("sync mode 'none' does not produce meaningful bitmap outputs")
        if mode is BitmapSyncMode.NEVER and setup.sync is not MirrorSyncMode.BITMAP:
            raise GenericError(
                f"Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{setup.sync.value}'"
            )
        setup.bitmap_mode = mode
    elif mode is not None:
        raise GenericError("Cannot specify bitmap sync mode without a bitmap")
    if (perf := arguments.x_perf) is not None:
        setup.max_workers = perf.max_workers
        setup.max_chunk = perf.max_chunk
        setup.min_cluster_size = perf.min_cluster_size
    for option in (
        "job_id",
        "compress",
        "discard_source",
        "speed",
        "on_source_error",
        "on_target_error",
        "filter_node_name",
        "auto_finalize",
        "auto_dismiss",
    ):
        setattr(setup, option, getattr(arguments, option))
    return await make_backup(jobs, setup, group)


async def drive_mirror(jobs: Jobs, data: DriveMirror) -> None:
    """`drive-mirror`.  GenericError."""
    from qemud.block.image import open_image
    from qemud.block.jobs.images import create_image
    from qemud.block.jobs.mirror_filter import MirrorSetup

    graph = jobs.graph
    source = root_node(graph, data.device)
    graph.check_not_blocked(source)
    existing = data.mode is NewImageMode.EXISTING
    format_name = data.format
    if format_name is None and not existing:
        format_name = source.driver.value
    backing = source.cow_child
    if backing is None and data.sync is MirrorSyncMode.TOP:
        data.sync = MirrorSyncMode.FULL
    if data.sync is MirrorSyncMode.NONE:
        backing = source
    if data.replaces is not None and data.node_name is None:
        raise GenericError("a node-name must be provided when replacing a named node of the graph")
    if not existing:
        assert format_name is not None
        shown = None if data.sync is MirrorSyncMode.FULL else backing
        while shown is not None and shown.implicit and shown.filtered is not None:
            shown = shown.filtered
        await create_image(
            graph,
            data.target,
            format_name,
            source.size,
            backing=None if shown is None else shown.filename,
            backing_format=None if shown is None else shown.driver.value,
        )
    options = {} if data.node_name is None else {"node-name": data.node_name}
    if format_name is not None:
        options["driver"] = format_name
    flags = source.flags._replace(read_only=False, auto_read_only=False, no_backing=True)
    target = await open_image(graph, data.target, options, flags=flags)
    try:
        setup = MirrorSetup(source, target)
        setup.unmap = data.unmap
        setup.backing_mode = "open" if existing else "source"
        # A new file is all zeroes.
        setup.zero_target = data.sync is MirrorSyncMode.FULL and existing
        await mirror(jobs, setup, {name: getattr(data, name) for name in (*_MIRROR_OPTIONS, "sync")})
    finally:
        await graph.release(target)


async def change_backing_file(graph: Graph, device: str, image: str, name: str) -> None:
    """`change-backing-file`.  GenericError."""
    top = root_node(graph, device)
    node = graph.lookup(None, image)
    if chain.next_layer(node) is None:
        raise GenericError("not allowing backing file change on an image without a backing file")
    graph.check_not_blocked(top)
    if not chain.contains(top, node):
        raise GenericError(f"'{device}' and image file are not in the same chain")
    was_read_only = node.read_only
    if was_read_only:
        await set_read_only(graph, node, read_only=False)
    try:
        await node.change_backing_file(name, node.driver.value)
    except OSError as error:
        raise GenericError(f"Could not change backing file to '{name}': {error.strerror}") from None
    finally:
        if was_read_only:
            await set_read_only(graph, node, read_only=True)

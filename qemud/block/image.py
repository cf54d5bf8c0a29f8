"""Images by their names: what `-drive file=`, a change of media and backing files say, where `blockdev-add` says all of it.

    node = await open_image(graph, "disk.qcow2", {})                        # the format is guessed
    node = await open_image(graph, 'json:{"driver": "null-co"}', {})
    node = await open_image(graph, "disk.img", {"driver": "raw", "cache": {"direct": "on"}})

Options are nested dicts; their values are typed, as in JSON, or strings, as on the command line.

Source of rules and texts: QEMU 10.0, block.c (bdrv_open_inherit and what it calls).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qemud.block.driver import Flags
from qemud.block.drivers import DRIVERS, class_of, probe
from qemud.block.edges import Role
from qemud.block.filename import absolute_name, has_protocol
from qemud.block.graph import apply_options, inherit
from qemud.block.pool import pool
from qemud.block.raw import PROBE_SIZE
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode

_COMMON = (
    "node-name",
    "discard",
    "cache",
    "active",
    "read-only",
    "auto-read-only",
    "force-share",
    "detect-zeroes",
)
_UNEXPECTED = ("Parameter '", "' is unexpected")


async def open_image(
    graph: Graph, filename: str | None, options: Mapping[str, Any], *, flags: Flags | None = None
) -> BlockNode:
    """Open an image, with all the nodes that it takes; held, as from `Graph.open`.  GenericError."""
    options = dict(options)
    if filename is not None and filename.startswith("json:"):
        options = {**_parse_json(filename), **options}
        filename = None
    flags = flags or Flags()
    own = apply_options(flags, _common_options(options))
    driver = options.get("driver")
    if driver is not None and driver not in DRIVERS:
        raise GenericError(f"Unknown driver '{driver}'")
    if driver is not None and class_of(driver).is_protocol:
        return await _open_protocol(graph, filename, options, flags=flags)
    if "file" not in options and filename is None:
        if driver is None:
            raise GenericError("Must specify either driver or file")
        raise GenericError('A block device must be specified for "file"')
    given = options.pop("file", {})
    file = await _open_file(graph, filename, given, inherit(own, Role.METADATA))
    try:
        probed = driver is None
        if driver is None:
            driver = await _probe(file)
            if driver == "raw" and not own.read_only:
                sys.stderr.write(_GUESSED.format(file.filename))
        data = await _open_data_file(graph, driver, options, own)
        try:
            node = await graph.open(_typed(driver, {**options, "file": file.node_name}), flags=flags)
        finally:
            if data is not None:
                await graph.release(data)
        if data is not None:
            data.inherits_from = node
        node.probed = probed and driver == "raw"
        if not isinstance(given, str):
            file.inherits_from = node
    finally:
        await graph.release(file)
    return node


async def open_backing(
    graph: Graph, node: BlockNode, name: str, format_name: str | None, *, flags: Flags
) -> BlockNode:
    """Open the backing file that an image names; held.  GenericError."""
    try:
        full = name if name.startswith("json:") else absolute_name(node, name)
        if full is None:
            raise GenericError(f"Cannot use relative backing file names for '{node.filename}'")  # noqa: TRY301 - as any other
        options = {} if format_name is None else {"driver": format_name}
        return await open_image(graph, full, options, flags=flags)
    except GenericError as error:
        raise GenericError(f"Could not open backing file: {error}") from None


async def _open_file(
    graph: Graph, filename: str | None, given: str | Mapping[str, Any], flags: Flags
) -> BlockNode:
    """The node below a format: by its name, or by the options that are given for it."""
    if isinstance(given, str):
        return await graph.open_reference(given)
    return await _open_protocol(graph, filename, given, flags=flags)


async def _open_data_file(graph: Graph, driver: str, options: dict[str, Any], own: Flags) -> BlockNode | None:
    """The external data file of an image, if options define it: held, and the options name it then."""
    given = options.get("data-file")
    if driver != "qcow2" or not isinstance(given, Mapping):
        return None
    data = await _open_protocol(graph, None, given, flags=inherit(own, Role.DATA))
    options["data-file"] = data.node_name
    return data


async def _open_protocol(
    graph: Graph, filename: str | None, options: Mapping[str, Any], *, flags: Flags
) -> BlockNode:
    options = dict(options)
    name = filename if filename is not None else options.pop("filename", None)
    driver = options.pop("driver", None)
    if driver is not None and driver not in DRIVERS:
        raise GenericError(f"Unknown driver '{driver}'")
    if driver is None:
        driver = await _protocol_of(name) if name is not None else None
    if driver is None:
        raise GenericError("Must specify either driver or file")
    cls = class_of(driver)
    if not cls.is_protocol:
        return await open_image(graph, name, {**options, "driver": driver}, flags=flags)
    if name is not None:
        options = {**cls.parse_filename(name, from_options=filename is None), **options}
    return await graph.open(_typed(driver, options), flags=flags)


async def _protocol_of(name: str) -> str:
    """The driver that reaches what a name says.  GenericError."""
    if has_protocol(name):
        protocol = name.partition(":")[0]
        for driver in DRIVERS:
            if protocol in class_of(driver).protocols:
                return driver
        raise GenericError(f"Unknown protocol '{protocol}'")
    return await _host_driver(name)


async def plain_file(name: str) -> Any:
    """The options of a node for a file of the host with exactly that name, whatever it looks like.  GenericError."""
    if not name:
        raise GenericError("The 'file' block driver requires a file name")
    return _typed(await _host_driver(name), {"filename": name})


async def _host_driver(name: str) -> str:
    """What reaches a file of the host."""

    def look() -> bool:
        try:
            mode = os.stat(name).st_mode
        except (OSError, ValueError):
            return False
        return stat.S_ISBLK(mode) or stat.S_ISCHR(mode)

    return "host_device" if await pool.run(look) else "file"


async def _probe(file: BlockNode) -> str:
    """The format of what is in a node.  GenericError."""
    header = bytearray(min(PROBE_SIZE, file.size))
    try:
        await file.readv(0, [memoryview(header)])
    except OSError as error:
        raise GenericError(f"Could not read image for determining its format: {error.strerror}") from None
    return probe(bytes(header))


def _parse_json(name: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(name.removeprefix("json:"))
    except (ValueError, RecursionError):
        raise GenericError("Could not parse the JSON options: JSON parse error") from None
    if not isinstance(value, dict):
        raise GenericError("Invalid JSON object given")
    return nest(value)


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose keys may be paths (`file.filename`) as nested dicts.  GenericError: they contradict."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        into = nested
        for part in path:
            into = into.setdefault(part, {})
            if not isinstance(into, dict):
                raise GenericError("Cannot mix scalar and non-scalar keys")
        if isinstance(value, dict):
            value = nest(value)  # noqa: PLW2901 - the same, in another shape
            if isinstance(into.get(last), dict):
                into[last].update(value)
                continue
        if isinstance(into.get(last), dict):
            raise GenericError("Cannot mix scalar and non-scalar keys")
        into[last] = value
    return nested


def _common_options(options: Mapping[str, Any]) -> Any:
    """The options that every node has, typed."""
    return _typed("null-co", {key: options[key] for key in _COMMON if key in options})


def _typed(driver: str, options: Mapping[str, Any]) -> Any:
    from qemud.qapi.runtime.keyval import parse_keyval_type

    try:
        return parse_keyval_type("BlockdevOptions", {**options, "driver": driver})
    except GenericError as error:
        text = str(error)
        before, after = _UNEXPECTED
        if text.startswith(before) and text.endswith(after):
            name = text[len(before) : -len(after)]
            if class_of(driver).is_protocol:
                raise GenericError(f"Block protocol '{driver}' doesn't support the option '{name}'") from None
            raise GenericError(f"Block format '{driver}' does not support the option '{name}'") from None
        raise


_GUESSED = """\
WARNING: Image format was not specified for '{}' and probing guessed raw.
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.
         Specify the 'raw' format explicitly to remove the restrictions.
"""

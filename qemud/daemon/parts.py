"""Objects and devices of the command line, made in the words of the two syntaxes that each may have.

    await add_object(tree, "memory-backend-ram,id=m,size=64M", ids)
    await add_device(services, '{"driver": "loader", "addr": 0, "data": 1, "data-len": 1}')

Imported when there are any: a greeting needs nothing of it.

Source of texts: QEMU 10.0, system/vl.c (object_create_early, device_init_func).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.daemon.cmdline import FromFile, UsageError, at, place_of, warner
from qemud.logs import report
from qemud.monitor.qmp.framing import parse_option
from qemud.qapi.runtime.errors import GenericError, QmpError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud._generated.types.options import GlobalProperty
    from qemud._generated.types.qdev import DeviceOptions
    from qemud.machine.services import Services
    from qemud.qom.creation import DeviceMaker
    from qemud.qom.tree import Tree


async def add_object(tree: Tree, text: str, ids: set[str]) -> None:
    """Make the object of an `-object`; `ids` are those of the objects so far in the syntax that knows of duplicates.  Raises UsageError."""
    from qemud.qapi.runtime.check import parse_type
    from qemud.qom.userobjects import add_object, options_from_text

    with at("object", text):
        if text.startswith("{"):
            options = parse_type("ObjectOptions", parse_option(text))
        else:
            options = options_from_text(text, warner("object", text))
            if options.id in ids:
                raise GenericError(f"Duplicate ID '{options.id}' for object")
            ids.add(options.id)
    try:
        await add_object(tree, options)
    except QmpError as error:
        # QEMU does not say which of the objects it was; a file's line is worth saying.
        raise UsageError(f"{place_of('object', text) if isinstance(text, FromFile) else ''}{error}") from None


async def add_device(services: Services, text: str) -> None:
    """Make the device of a `-device`.  Raises UsageError."""
    from qemud.qapi.runtime.keyval import parse_keyval_type
    from qemud.qapi.runtime.qemuopts import parse

    maker = _maker(services)
    with at("device", text):
        if text.startswith("{"):
            await maker.add(parse_option(text), hotplug=False)
        else:
            values = parse(text, implied="driver", warn=warner("device", text))
            await maker.add(dict(values), hotplug=False, parse=parse_keyval_type)


def device_options(text: str) -> DeviceOptions:
    """What a `-device` says.  Raises UsageError."""
    from qemud.qapi.runtime.check import parse_type
    from qemud.qapi.runtime.keyval import parse_keyval_type
    from qemud.qapi.runtime.qemuopts import parse

    options: DeviceOptions
    with at("device", text):
        if text.startswith("{"):
            options = parse_type("DeviceOptions", parse_option(text))
        else:
            options = parse_keyval_type("DeviceOptions", parse(text, implied="driver"))
    return options


def options_of_drives_device(arguments: dict[str, str]) -> DeviceOptions:
    """The same for the device that belongs to a drive."""
    from qemud.qapi.runtime.keyval import parse_keyval_type

    options: DeviceOptions = parse_keyval_type("DeviceOptions", arguments)
    return options


async def add_drives_device(services: Services, place: str, arguments: dict[str, str]) -> None:
    """Make the device that belongs to a drive, whose option is named by `place`.  Raises UsageError."""
    from qemud.qapi.runtime.keyval import parse_keyval_type

    try:
        await _maker(services).add(dict(arguments), hotplug=False, parse=parse_keyval_type)
    except QmpError as error:
        raise UsageError(f"{place}{error}") from None


def warn_of_globals(given: Iterable[GlobalProperty]) -> None:
    """Tell people of each `-global` that is for no type of devices: a shorter name of one is none, in QEMU neither."""
    from qemud.qom.types import types

    for each in given:
        if not types.is_a(each.driver, "device"):
            report(f"warning: global {each.driver}.{each.property} has invalid class name")


def _maker(services: Services) -> DeviceMaker:
    from qemud.qom.creation import DeviceMaker

    return DeviceMaker(services.tree, services.vm.mailboxes.call, services.emit, services)

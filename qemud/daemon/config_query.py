"""`query-config`: the running machine as a document that `--config` makes the same machine of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.commands.config import ConfigCommands
from qemud._generated.types.accel import TcgAccelOptions
from qemud._generated.types.config import Configuration, ConfigurationChardev
from qemud._generated.types.options import ActionOptions, GlobalProperty, MonitorMode, MonitorOptions
from qemud._generated.types.qdev import DeviceDriver
from qemud.daemon.machine import board_name
from qemud.qapi.runtime.check import parse_type, to_wire
from qemud.qom.properties import Provenance
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.machine.services import Services
    from qemud.qom.object import Object


class ConfigHandlers(ConfigCommands):
    """Handlers of `config.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_config(self) -> Configuration:
        """`query-config`."""
        services = self._services
        line, vm, tree = services.startup.line, services.vm, services.tree
        board = board_name(services.startup.options)
        return Configuration(
            name=line.name,
            uuid=services.uuid if line.uuid else None,
            action=ActionOptions(
                reboot=vm.actions.reboot,
                shutdown=vm.actions.shutdown,
                panic=vm.actions.panic,
                watchdog=vm.actions.watchdog,
            ),
            rtc=line.rtc,
            globals=[
                GlobalProperty(driver=driver, property=name, value=value)
                for driver, name, value in tree.root.globals
            ]
            or None,
            machine=parse_type("MachineOptions", {"type": board, **_values(tree.machine)}),
            accel=services.startup.accel if services.startup.accel != TcgAccelOptions() else None,
            cpu=str(line.cpu) if line.cpu is not None else None,
            objects=[
                parse_type(
                    "ObjectOptions",
                    {
                        "qom-type": each.type_name,
                        "id": each.name,
                        **{
                            name: value
                            for name, value in _values(each).items()
                            if name not in each.confidential
                        },
                    },
                )
                for each in tree.objects.children.values()
                if isinstance(each, UserCreatable) and each is not tree.machine.default_memory
            ]
            or None,
            chardevs=[ConfigurationChardev(id=each.label, backend=each.backend) for each in services.chardevs]
            or None,
            monitors=[
                MonitorOptions(
                    id=each.label,
                    mode=MonitorMode(each.mode),
                    chardev=each.chardev,
                    pretty=(each.monitor is not None and each.monitor.session.pretty) or None,
                )
                for each in services.monitors
            ]
            or None,
            serial=[
                "none" if chardev is None else f"chardev:{chardev.label}"
                for chardev in services.startup.serials
            ]
            or None,
            devices=list(_devices(tree.machine)) or None,
            paused=(not vm.running if services.startup.ready else line.S) or None,
        )


def _values(target: Object) -> dict[str, Any]:
    """The options that have a value, as in JSON, without those that the machine's version gives it anyway."""
    if target.options is None:
        return {}
    values: dict[str, Any] = to_wire(target.options)
    return {
        name: value for name, value in values.items() if target.provenance_of(name) is not Provenance.VERSION
    }


def _devices(board: Any) -> Iterator[Any]:
    """The devices that users have added, in their order."""
    known = {driver.value for driver in DeviceDriver}
    for holder in (board.peripheral, board.peripheral_anon):
        for device in holder.children.values():
            if device.type_name in known:
                given = {"driver": device.type_name, **_values(device)}
                if device.id is not None:
                    given["id"] = device.id
                if device.bus is not None:
                    given["bus"] = device.bus.path
                yield parse_type("DeviceOptions", given)

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
from qemud.qom.device import Bus, Device
from qemud.qom.properties import Provenance
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.block.document import Description as Disks
    from qemud.machine.services import Services
    from qemud.net.document import Description as Nets
    from qemud.qom.object import Object


class ConfigHandlers(ConfigCommands):
    """Handlers of `config.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_config(self) -> Configuration:
        """`query-config`."""
        return _Query(self._services).configuration()


class _Query:
    """One look at the machine; nothing changes meanwhile."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._disks: Disks | None = None
        self._nets: Nets | None = None
        if services.has_block:
            from qemud.block.document import Description as Disks

            self._disks = Disks(services.block)
        if services.has_net:
            from qemud.net.document import Description as Nets

            self._nets = Nets(services.net)

    def configuration(self) -> Configuration:
        """All of it."""
        services = self._services
        line, vm, tree = services.startup.line, services.vm, services.tree
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
            machine=parse_type("MachineOptions", self._machine()),
            accel=services.startup.accel if services.startup.accel != TcgAccelOptions() else None,
            cpu=str(line.cpu) if line.cpu is not None else None,
            objects=[parse_type("ObjectOptions", self._object(each)) for each in self._objects()] or None,
            chardevs=self._chardevs() or None,
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
            blockdevs=(self._disks.blockdevs or None) if self._disks is not None else None,
            drives=(self._disks.drives or None) if self._disks is not None else None,
            netdevs=(self._nets.netdevs or None) if self._nets is not None else None,
            fw_cfg=_firmware_items(line.fw_cfg) or None,
            devices=[
                *[parse_type("DeviceOptions", self._device(each)) for each in _devices(tree.machine)],
                *services.startup.waiting_devices(),
            ]
            or None,
            paused=(not vm.running if services.startup.ready else line.S) or None,
        )

    def _machine(self) -> dict[str, Any]:
        machine = self._services.tree.machine
        values = {"type": board_name(self._services.startup.options), **_values(machine)}
        for bank in range(2):
            flash, option = machine.children.get(f"virt.flash{bank}"), f"pflash{bank}"
            if values.get(option) is not None and self._disks is not None and self._disks.has(flash):
                # Jobs and snapshots have perhaps put another node there.
                values[option] = self._disks.name_for(flash)
        return values

    def _objects(self) -> list[UserCreatable]:
        """The objects that users have made."""
        tree = self._services.tree
        last = self._nets.displaced if self._nets is not None else []
        return [
            each
            for each in tree.objects.children.values()
            if isinstance(each, UserCreatable)
            and each is not tree.machine.default_memory
            and each not in last
        ] + last

    def _object(self, target: Any) -> dict[str, Any]:
        values = {
            "qom-type": target.type_name,
            "id": target.name,
            **{name: value for name, value in _values(target).items() if name not in target.confidential},
        }
        if self._nets is not None and (netdev := getattr(target, "netdev", None)) is not None:
            values["netdev"] = self._nets.name_of(netdev)
            if target in self._nets.displaced:
                for name in ("position", "insert"):
                    values.pop(name, None)
        return values

    def _chardevs(self) -> list[ConfigurationChardev]:
        """All but those that belong to a network, which makes them again."""
        others = self._nets.chardevs if self._nets is not None else frozenset()
        return [
            ConfigurationChardev(id=each.label, backend=each.backend)
            for each in self._services.chardevs
            if each.label not in others
        ]

    def _device(self, device: Device) -> dict[str, Any]:
        """A device that a user has added, with what was chosen for it, and the backends that it has now."""
        values = {"driver": device.type_name, **_values(device)}
        if device.id is not None:
            values["id"] = device.id
        if device.bus is not None:
            values["bus"] = _bus_name(device.bus, self._services.tree.root)
        # A function that brings a virtio device along has its options, which has the backends.
        parts = [device, *filter(None, [device.children.get("virtio-backend")])]
        for part in parts:
            for option, backends in (("drive", self._disks), ("netdev", self._nets)):
                if backends is not None and backends.has(part):
                    values.pop(option, None)
                    if (name := backends.name_for(part)) is not None:
                        values[option] = name
        return values


def _values(target: Object) -> dict[str, Any]:
    """The options that have a value, as in JSON, without those that the machine's version gives it anyway."""
    if target.options is None:
        return {}
    values: dict[str, Any] = to_wire(target.options)
    return {
        name: value for name, value in values.items() if target.provenance_of(name) is not Provenance.VERSION
    }


def _devices(board: Any) -> Iterator[Device]:
    """The devices that users have added, in the order in which they came."""
    known = {driver.value for driver in DeviceDriver}
    found = [*board.peripheral.children.values(), *board.peripheral_anon.children.values()]
    for device in sorted(found, key=lambda each: each.ordinal):
        if device.type_name in known:
            yield device


def _bus_name(bus: Bus, root: Object) -> str:
    """What `device_add` calls a bus."""
    named = [node for node in root.walk() if isinstance(node, Bus) and node.bus_name == bus.bus_name]
    return bus.bus_name if len(named) == 1 else bus.path


def _firmware_items(texts: list[str] | None) -> list[Any]:
    """The arguments of `-fw_cfg`, read."""
    if not texts:
        return []
    from qemud.daemon.cmdline import read_opts

    read = read_opts("FwCfgOptions", "name")
    return [read(text, lambda _warning: None) for text in texts]

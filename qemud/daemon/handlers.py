"""Which class handles the commands of each schema module.

Names only: a class is imported when the first command of its module runs.  `python -m qemud.qapi check --bindings` holds this
table, the classes and the schema to each other.
"""

from __future__ import annotations

HANDLERS: dict[str, str] = {
    "block-core": "qemud.block.commands:BlockCoreHandlers",
    "char": "qemud.chardev.commands:CharHandlers",
    "config": "qemud.daemon.config_query:ConfigHandlers",
    "control": "qemud.monitor.commands:ControlHandlers",
    "descriptors": "qemud.monitor.descriptors:DescriptorsHandlers",
    "hmp": "qemud.monitor.hmp.commands:HmpHandlers",
    "inspection": "qemud.hw.inspection:InspectionHandlers",
    "introspect": "qemud.monitor.commands:IntrospectHandlers",
    "inventory": "qemud.hw.inventory:InventoryHandlers",
    "iothread": "qemud.machine.iothread:IothreadHandlers",
    "job": "qemud.block.commands:JobHandlers",
    "machine": "qemud.hw.commands:MachineHandlers",
    "migration": "qemud.migration.commands:MigrationHandlers",
    "monitor": "qemud.monitor.hotplug:MonitorHandlers",
    "options": "qemud.daemon.commands:OptionsHandlers",
    "qdev": "qemud.qom.commands:QdevHandlers",
    "qom": "qemud.qom.commands:QomHandlers",
    "run-state": "qemud.machine.commands:RunStateHandlers",
    "stats": "qemud.machine.stats:StatsHandlers",
    "startup": "qemud.daemon.commands:StartupHandlers",
    "trace": "qemud.debug.trace:TraceHandlers",
    "yank": "qemud.chardev.yank:YankHandlers",
}

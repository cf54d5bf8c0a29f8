"""Which class handles the commands of each schema module.

Names only: a class is imported when the first command of its module runs.  `python -m qemud.qapi check --bindings` holds this
table, the classes and the schema to each other.
"""

from __future__ import annotations

HANDLERS: dict[str, str] = {
    "balloon": "qemud.hw.virtio.balloon_commands:BalloonHandlers",
    "block": "qemud.block.media:BlockHandlers",
    "block-changes": "qemud.block.jobs.change_commands:BlockChangesHandlers",
    "block-copying": "qemud.block.jobs.commands:BlockCopyingHandlers",
    "block-core": "qemud.block.commands:BlockCoreHandlers",
    "block-export": "qemud.block.nbd.commands:BlockExportHandlers",
    "block-graph": "qemud.block.commands:BlockGraphHandlers",
    "block-info": "qemud.block.commands:BlockInfoHandlers",
    "block-internal": "qemud.block.internal:BlockInternalHandlers",
    "block-jobs": "qemud.block.jobs.commands:BlockJobsHandlers",
    "block-stats": "qemud.block.commands:BlockStatsHandlers",
    "block-throttle": "qemud.block.commands:BlockThrottleHandlers",
    "char": "qemud.chardev.commands:CharHandlers",
    "config": "qemud.daemon.config_query:ConfigHandlers",
    "control": "qemud.monitor.commands:ControlHandlers",
    "descriptors": "qemud.monitor.descriptors:DescriptorsHandlers",
    "dump": "qemud.hw.core_dump:DumpHandlers",
    "hmp": "qemud.monitor.hmp.commands:HmpHandlers",
    "inspection": "qemud.hw.inspection:InspectionHandlers",
    "introspect": "qemud.monitor.commands:IntrospectHandlers",
    "inventory": "qemud.hw.inventory:InventoryHandlers",
    "iothread": "qemud.machine.iothread:IothreadHandlers",
    "job": "qemud.block.jobs.commands:JobHandlers",
    "machine": "qemud.hw.commands:MachineHandlers",
    "migration": "qemud.migration.commands:MigrationHandlers",
    "migration-options": "qemud.migration.commands:MigrationOptionsHandlers",
    "monitor": "qemud.monitor.hotplug:MonitorHandlers",
    "net": "qemud.net.commands:NetHandlers",
    "option-parameters": "qemud.daemon.commands:OptionParametersHandlers",
    "pci": "qemud.hw.pci.commands:PciHandlers",
    "qdev": "qemud.qom.commands:QdevHandlers",
    "qom": "qemud.qom.commands:QomHandlers",
    "run-state": "qemud.machine.commands:RunStateHandlers",
    "stats": "qemud.machine.stats:StatsHandlers",
    "startup": "qemud.daemon.commands:StartupHandlers",
    "trace": "qemud.debug.trace:TraceHandlers",
    "transaction": "qemud.block.jobs.change_commands:TransactionHandlers",
    "virtio-inspection": "qemud.hw.virtio.inspection:VirtioInspectionHandlers",
    "vm-snapshot": "qemud.migration.snapshot_commands:VmSnapshotHandlers",
    "yank": "qemud.chardev.yank:YankHandlers",
}

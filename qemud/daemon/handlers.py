"""Which class handles the commands of each schema module.

Names only: a class is imported when the first command of its module runs.  `python -m qemud.qapi check --bindings` holds this
table, the classes and the schema to each other.
"""

from __future__ import annotations

HANDLERS: dict[str, str] = {
    "char": "qemud.chardev.commands:CharHandlers",
    "control": "qemud.monitor.commands:ControlHandlers",
    "descriptors": "qemud.monitor.descriptors:DescriptorsHandlers",
    "hmp": "qemud.monitor.hmp.commands:HmpHandlers",
    "inspection": "qemud.hw.inspection:InspectionHandlers",
    "introspect": "qemud.monitor.commands:IntrospectHandlers",
    "machine": "qemud.hw.commands:MachineHandlers",
    "options": "qemud.daemon.commands:OptionsHandlers",
    "qdev": "qemud.qom.commands:QdevHandlers",
    "qom": "qemud.qom.commands:QomHandlers",
    "run-state": "qemud.machine.commands:RunStateHandlers",
    "trace": "qemud.debug.trace:TraceHandlers",
}

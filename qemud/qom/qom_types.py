"""The types that every other type descends from, and the interfaces."""

from qemud.qom.types import TypeEntry

TYPES = (
    TypeEntry("object", None, "qemud.qom.object:Object", abstract=True),
    TypeEntry("container", "object", "qemud.qom.object:Container"),
    TypeEntry("interface", None, abstract=True),
    TypeEntry("user-creatable", "interface", abstract=True),
    TypeEntry("device", "object", "qemud.qom.device:Device", abstract=True),
    TypeEntry("sys-bus-device", "device", "qemud.qom.device:SysBusDevice", abstract=True),
    TypeEntry("bus", "object", "qemud.qom.device:Bus", abstract=True),
    TypeEntry("System", "bus", "qemud.qom.device:SystemBus"),
    TypeEntry("machine", "object", "qemud.qom.machine:Machine", abstract=True),
)

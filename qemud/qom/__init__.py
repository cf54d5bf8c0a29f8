"""The object model: Python classes bound to structs of the schema, and the tree that owns their objects.

Everything that has a name in the machine is an `Object` of a QOM type: devices, buses, boards, backends, character devices,
processors.  A type is a Python class that names its structs by class keywords:

    class GoldfishRtc(SysBusDevice, type_name="goldfish_rtc", options=GoldfishRtcOptions, state=GoldfishRtcState):
        options: GoldfishRtcOptions
        state: GoldfishRtcState

The struct's members are the type's properties; their types, defaults and documentation are the schema's, and no property is
declared a second time in Python.  What is not in a struct is a plain attribute and invisible from outside.

    object.py      Object: properties with provenance, children, links
    properties.py  what a property is; type names as QEMU prints them
    values.py      values of structs as JSON has them
    types.py       the registry of types: static data about all of them, classes imported when first needed
    tree.py        the composition tree: paths, aliases
    device.py      Device, Bus, SysBusDevice: realize, reset
    state.py       saving a tree by value and loading it
    machine.py     Machine: what all boards are
    creation.py    device_add and device_del
    help.py        what `-device help` prints
    bindings.py    the check that lists, classes and schema agree
    userobjects.py object-add and object-del
    commands.py    the handlers of the QMP commands
"""

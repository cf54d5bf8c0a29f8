"""Monitors: how the outside commands the machine.

`qmp/` speaks QEMU's machine protocol, `dispatch.py` finds and runs what a command names, `commands.py` holds the few
commands that are about the monitor itself.  Every other handler lives in the room of what it handles.
"""

"""Machines that are saved: as a stream, and in snapshots of their disks.

    stream.py      the format: a header, what devices and processors know, which pieces of memory follow
    memory.py      the guest's memory, to the stream and back, without copying it in Python
    whole.py       save, load and delete a snapshot of the machine with all its disks
    jobs.py        the same as jobs
    commands.py    handlers of `migration.json`

Why the format is what it is: docs/decisions/0020-saved-machines.md.
"""

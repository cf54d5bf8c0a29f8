"""Machines that are saved, and machines that move: as streams, and in snapshots of their disks.

    stream.py               the format of a saved machine: a header, what devices and processors know, which pieces of memory follow
    memory.py               the guest's memory, to the stream and back, without copying it in Python
    whole.py                save, load and delete a snapshot of the machine with all its disks
    jobs.py                 the same as jobs
    snapshot_commands.py    handlers of `vm-snapshot.json`

    service.py              the migrations of the process: one from here, one to here
    outgoing.py             a machine that leaves: its steps, its end
    sender.py               its memory, pass for pass; `passes.py` finds what has changed, `statistics.py` tells when it is little
    incoming.py             a machine that arrives
    live.py                 the format of what is sent
    channel.py              what it is sent through; `transport.py` makes that, from an `address.py`
    options.py              capabilities and parameters
    commands.py             handlers of `migration.json` and `migration-options.json`

    still.py                the machine with its disks standing still, for both

Why it is as it is: docs/decisions/0020-saved-machines.md and 0021-migration.md.
"""

"""Character devices: byte streams between the outside and a monitor or a device of the guest.

    registry.py    the set of chardevs, by ID: add, remove, change; from QMP's types and from the command line
    options.py     the command line's two notations, `-chardev kind,k=v` and `-serial unix:…`, turned into QMP's types
    stream.py      `Chardev`, what is outside, and `Port`, its user's end
    frontend.py    the bridge from a port on the event loop to a device on the machine thread
    socket.py, pty.py, stdio.py, file.py, pipe.py, null.py, ringbuf.py     the kinds, imported when first used
    mux.py         several users of one chardev; log.py: a copy of its output
    commands.py    the QMP commands

The kinds share `descriptor.py` (non-blocking descriptors) and `pool.py` (files, which the loop cannot watch).
"""

"""The machine: its thread, time, memory, interrupt lines and run state, without any device or processor in particular.

    vm.py          the machine as the event loop and handlers see it: run state, stop, cont, reset, shutdown
    thread.py      the machine thread: runs the processor, timers and messages; only it touches devices
    mailbox.py     the two ways between the event loop and the machine thread, and the rules who may call what
    memory.py      the physical address space: RAM, registers, holes
    clock.py       virtual, host and real time, and timers
    irq.py         an interrupt line
    vcpu.py        what a processor is to the machine; `qemud.accel` has one
    snapshot.py    the whole machine's state, saved and loaded
    services.py    what handlers of commands are given

Beside them: memory backends and I/O threads as objects (`backends.py`, `iothread.py`), descriptors that clients pass
(`descriptors.py`), counters (`stats.py`), the number of processors (`smp.py`), and the handlers of this room's commands.

Read `vm.py` first for what the machine can be told, `thread.py` for how it does it.
"""

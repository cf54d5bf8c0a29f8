"""The Unicorn engine as a processor.

riscv.py     a hart: what the machine calls
native.py    chooses what the engine calls:
_fast.c        the C extension, or
twin.py        the same in Python, where it was not built
outside.py   what lies outside RAM: devices, and nothing
layout.py    where the engine keeps what we need
library.py   the shared library: version, host, prototypes
"""

"""Confines a program to one folder; Python imports this at start-up when its own folder is on PYTHONPATH.

What an attacker names, a program writes, and tests may run as root. By Landlock, nothing outside the current directory can be
created, removed or written, save terminals and what swallows everything; what is open already stays open. Where the kernel has no
Landlock, the rights of an ordinary user have to do, and root is refused.

Source: Linux, Documentation/userspace-api/landlock.rst.
"""

import ctypes
import os
import struct
import sys

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_ALL = _WRITE_FILE | _REMOVE_AND_MAKE | _TRUNCATE
_TERMINALS = ("/dev/ptmx", "/dev/pts", "/dev/null", "/dev/zero", "/dev/full", "/dev/tty")
_OLDEST = 3
"""The version of the interface that knows truncation."""


def _confine() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: int | bytes | None) -> int:
        result = libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
        return int(result)

    def allow(path: str, rights: int) -> None:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
        os.close(fd)

    try:
        version = call(_CREATE_RULESET, None, 0, 1)
    except OSError:
        version = 0
    if version < _OLDEST:
        if os.geteuid() == 0:
            sys.exit(f"Landlock is of version {version} here, {_OLDEST} was expected: root is not let loose")
        return
    rights = struct.pack("=Q", _ALL)
    ruleset = call(_CREATE_RULESET, rights, len(rights), 0)
    allow(".", _ALL)
    for path in filter(os.path.exists, _TERMINALS):
        allow(path, _ALL if os.path.isdir(path) else _WRITE_FILE | _TRUNCATE)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


_confine()

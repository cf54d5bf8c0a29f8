"""Locks on image files, byte for byte those of QEMU, so that its tools and qemud keep out of each other's way.

For each permission there are two bytes of the file.  Who has a permission holds a shared lock on the first, who does not let
others have it one on the second; each then looks whether somebody else holds what contradicts.  The locks belong to the open file
description (F_OFD_SETLK), so that they end with it and are inherited with it.

Source of bytes and texts: QEMU 10.0, block/file-posix.c.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from qemud.block import permission
from qemud.qapi.runtime.errors import GenericError

PERM_BASE = 100
"""The byte for the first permission that somebody has."""
SHARED_BASE = 200
"""The byte for the first permission that somebody does not share."""

_F_OFD_GETLK = 36
_F_OFD_SETLK = 37
_FLOCK = struct.Struct("@hhqqi4x")
_BITS = tuple(1 << number for number in range(permission.ALL.bit_length()))


class LockError(GenericError):
    """Somebody else uses the file in a way that conflicts; `hint` is what QEMU adds for people."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class FileLocks:
    """What one open file holds: for each of the two rows of bytes, the permissions."""

    def __init__(self) -> None:
        self._held = {PERM_BASE: 0, SHARED_BASE: 0}

    def take(self, fd: int, has: int, unshared: int) -> None:
        """Hold these bytes too.  GenericError; some of them may be held then."""
        for base, wanted in ((PERM_BASE, has), (SHARED_BASE, unshared)):
            for number, bit in enumerate(_BITS):
                if wanted & bit and not self._held[base] & bit:
                    _lock(fd, base + number)
                    self._held[base] |= bit

    def keep_only(self, fd: int, has: int, unshared: int) -> None:
        """Let go of all other bytes."""
        for base, wanted in ((PERM_BASE, has), (SHARED_BASE, unshared)):
            for number, bit in enumerate(_BITS):
                if self._held[base] & bit and not wanted & bit:
                    try:
                        _set(fd, base + number, fcntl.F_UNLCK)
                    except OSError:
                        continue  # a file system that has just gone away: nothing can be done, and nothing is lost
                    self._held[base] &= ~bit

    def copy_to(self, fd: int) -> None:
        """Hold the same on another open file.  GenericError."""
        copy = FileLocks()
        copy.take(fd, self._held[PERM_BASE], self._held[SHARED_BASE])


def check(fd: int, needs: int, shares: int, filename: str) -> None:
    """Raise LockError when somebody else holds a lock that contradicts."""
    for number, bit in enumerate(_BITS):
        if needs & bit:
            _test(fd, SHARED_BASE + number, f'Failed to get "{permission.names(bit)}" lock', filename)
    for number, bit in enumerate(_BITS):
        if not shares & bit:
            _test(fd, PERM_BASE + number, f'Failed to get shared "{permission.names(bit)}" lock', filename)


def _lock(fd: int, byte: int) -> None:
    try:
        _set(fd, byte, fcntl.F_RDLCK)
    except OSError as error:
        raise GenericError(_with_reason(f"Failed to lock byte {byte}", error)) from None


def _set(fd: int, byte: int, kind: int) -> None:
    fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def _test(fd: int, byte: int, text: str, filename: str) -> None:
    hint = f"Is another process using the image [{filename}]?"
    try:
        answer = fcntl.fcntl(fd, _F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        raise LockError(_with_reason(text, error), hint) from None
    if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
        raise LockError(text, hint)


def _with_reason(text: str, error: OSError) -> str:
    """Another process is the usual reason, which needs no words."""
    return text if error.errno in {errno.EAGAIN, errno.EACCES} else f"{text}: {error.strerror}"

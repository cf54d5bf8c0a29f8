"""Files that hold credentials: where they are, and what is in them.  Errors are QEMU's (crypto/tlscreds.c)."""

from __future__ import annotations

import os
import stat

from qemud.qapi.runtime.errors import GenericError

_LIMIT = 16 << 20
"""Bytes; a file beyond that holds no credentials."""


def credential_path(directory: str | None, name: str, *, required: bool = True) -> str | None:
    """The path of a file in the directory, or None where there is none and none is required.  GenericError."""
    if directory is None:
        if required:
            raise GenericError("Missing 'dir' property value")
        return None
    path = f"{directory}/{name}"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not required:
            return None
        raise GenericError(f"Unable to access credentials {path}: No such file or directory") from None
    except OSError as error:
        raise GenericError(f"Unable to access credentials {path}: {error.strerror}") from None
    except ValueError:
        raise GenericError(
            f"Unable to access credentials {path!a}: a path without zero bytes is needed"
        ) from None
    if not stat.S_ISREG(mode):  # a pipe could keep the reader waiting for ever
        raise GenericError(f"Unable to access credentials {path}: not a regular file")
    return path


def read_file(path: str, trouble: str) -> bytes:
    """The content; `trouble` is the text of the GenericError, with places for the path and the reason."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            content = file.read(_LIMIT + 1) or b""  # None: a FIFO whose writer has nothing to say yet
    except (OSError, ValueError) as error:
        reason = f"Failed to open file “{path}”: {getattr(error, 'strerror', None) or error}"
        raise GenericError(trouble.format(path, reason)) from None
    if len(content) > _LIMIT:
        raise GenericError(trouble.format(path, f"more than {_LIMIT} bytes"))
    return content

"""The errors that a client can be told of: a closed tree, as QMP has it.

A handler raises one of these; the text is what the client reads, so it names the thing, the value and what was
expected.  Whatever else a handler raises is a defect: the dispatcher logs it and answers a plain GenericError.

    QmpError
    ├── GenericError      what most errors are
    ├── CommandNotFound   no such command, or not in this mode
    ├── DeviceNotActive   the device exists but cannot do it now
    ├── DeviceNotFound    no such device, object or type
    └── KVMMissingCap     never raised here; part of QEMU's enumeration

Source: QEMU 10.0, qapi/error.json, QapiErrorClass.
"""

from __future__ import annotations

from typing import ClassVar


class QmpError(Exception):
    """An error with a class and a text for the client."""

    error_class: ClassVar[str] = "GenericError"

    @property
    def desc(self) -> str:
        """The text for people, one line."""
        return str(self)


class GenericError(QmpError):
    """Any error that has no class of its own."""


class CommandNotFound(QmpError):
    """The command does not exist, or not in this mode of the monitor."""

    error_class = "CommandNotFound"


class DeviceNotActive(QmpError):
    """The device exists but is not in a state to do what was asked."""

    error_class = "DeviceNotActive"


class DeviceNotFound(QmpError):
    """No device, object or type of that name."""

    error_class = "DeviceNotFound"


class KVMMissingCap(QmpError):
    """A capability of KVM is missing; qemud has no KVM and never raises it."""

    error_class = "KVMMissingCap"

"""The monitors of the process, by ID: those of the command line, and those that clients add.

    monitors = Monitors(dispatcher.execute, events, turn)
    monitors.add("compat_monitor0", chardev, pretty=False)      # QMP; GenericError: the chardev is in use
    monitors.adopt("mon0", "readline", chardev.label, human_monitor.close)
    monitors.remove("compat_monitor0")
    monitors.close_all()

Source of the names and of what they do: Christian Brauner's patches "monitor: add dynamic QMP monitor hotplug support" for QEMU,
version 4, April 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.monitor.qmp.server import Monitor, current_session
from qemud.monitor.version import version_text
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qemud.chardev.stream import Chardev
    from qemud.monitor.dispatch import Execute
    from qemud.monitor.qmp.events import Events
    from qemud.monitor.qmp.server import Turn


class Entry:
    """One monitor: its ID if it has one, its mode (`MonitorMode`), its chardev's ID, and how it is closed."""

    __slots__ = ("chardev", "close", "label", "mode", "monitor")

    def __init__(
        self, label: str | None, mode: str, chardev: str, close: Callable[[], None], monitor: Monitor | None
    ) -> None:
        self.label = label
        self.mode = mode
        self.chardev = chardev
        self.close = close
        self.monitor = monitor


class Monitors:
    """See the module.  `turn` and `events` are shared by all QMP monitors."""

    def __init__(self, execute: Execute, events: Events, turn: Turn) -> None:
        self._execute = execute
        self._events = events
        self._turn = turn
        self._entries: list[Entry] = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def add(self, label: str | None, chardev: Chardev, *, pretty: bool = False) -> None:
        """Put a QMP monitor on a chardev.  GenericError: the ID is taken, or the chardev is in use."""
        self._check(label)
        monitor = Monitor(
            chardev.attach(), self._execute, version_text(), self._turn, pretty=pretty, offers_replay=True
        )
        self._events.subscribe(monitor.send_event)

        def close() -> None:
            self._events.unsubscribe(monitor.send_event)
            monitor.close()

        self._entries.append(Entry(label, "control", chardev.label, close, monitor))

    def adopt(self, label: str | None, mode: str, chardev: str, close: Callable[[], None]) -> None:
        """Keep a monitor of another kind, which `close` ends.  GenericError: the ID is taken."""
        self._check(label)
        self._entries.append(Entry(label, mode, chardev, close, None))

    def remove(self, label: str) -> Entry:
        """Close a QMP monitor, or have it closed once it has answered if it is the one that asks.  GenericError: there is none."""
        entry = next((entry for entry in self._entries if entry.label == label), None)
        if entry is None:
            raise GenericError(f"Monitor '{label}' not found")
        if entry.monitor is None:
            raise GenericError(f"Monitor '{label}' is not a QMP monitor and cannot be removed")
        self._entries.remove(entry)
        if entry.monitor.session is current_session.get(None):
            self._events.unsubscribe(entry.monitor.send_event)
            entry.monitor.close_when_answered()
        else:
            entry.close()
        return entry

    def close_all(self) -> None:
        """Close all, the newest first."""
        while self._entries:
            self._entries.pop().close()

    def _check(self, label: str | None) -> None:
        if label is not None and any(entry.label == label for entry in self._entries):
            raise GenericError(f"Monitor with id '{label}' already exists")

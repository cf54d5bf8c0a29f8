"""The set of chardevs, by ID.

    chardevs = Chardevs(report=log_line, end=end_the_process)
    chardev = await chardevs.add("c", backend)                    # QMP's types
    chardev = await chardevs.open_options("pty,id=c")             # -chardev
    chardev = await chardevs.open_compact("serial0", "mon:stdio", mux_monitor=True)      # -serial, -qmp
    await chardevs.close_all()                                    # at the end: what is pending leaves, paths are removed

Each kind is imported when the first of it is made.  Who keeps a composition tree has `watch` tell of them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from qemud.logs import tell
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from qemud._generated.types.char_backends import ChardevBackend, ChardevCommon
    from qemud.chardev.address import Identity, ResolveFd
    from qemud.chardev.log import Log
    from qemud.chardev.options import Description
    from qemud.chardev.stream import Chardev
    from qemud.qom.object import Object

DRAIN_TIMEOUT, DRAIN_ROUNDS = 2.0, 5
"""Before a chardev is closed its output may leave: for so many seconds, and again as often as some of it has left."""


def _announce(line: str) -> None:
    """Tell on standard output which terminal was made, as QEMU does; programs look for this line, if any are there."""
    with suppress(OSError):
        tell(line + "\n")


def _ignore(_: object) -> None:
    """Where nobody wants to know."""


async def _drain(chardevs: list[Chardev]) -> None:
    """Let pending output leave, as long as some of it does."""
    for chardev in chardevs:
        chardev.gather()
    late = {asyncio.ensure_future(chardev.drain()) for chardev in chardevs}
    left = sum(chardev.backlog for chardev in chardevs)
    for _ in range(DRAIN_ROUNDS):
        if not late:
            return
        # Not asyncio.timeout, which needs a task: a QMP handler has none before it first waits.
        done, late = await asyncio.wait(late, timeout=DRAIN_TIMEOUT)
        for drain in done:
            drain.result()
        before, left = left, sum(chardev.backlog for chardev in chardevs)
        if left == before:
            break
    for drain in late:
        drain.cancel()


class Chardevs:
    """All chardevs of the process.  Everything but `get` belongs to the event loop."""

    def __init__(
        self,
        *,
        report: Callable[[str], object] = _ignore,
        announce: Callable[[str], object] = _announce,
        end: Callable[[], object] = lambda: None,
        resolve_fd: ResolveFd | None = None,
        daemonized: bool = False,
        objects: Callable[[], Mapping[str, Object]] = dict,
    ) -> None:
        """`report` takes lines for people ("info: …", "warning: …"); `end` ends the emulator, for a multiplexer's Ctrl-A x.

        `resolve_fd` finds the descriptors that the command line names; numbers alone are understood without it.  A process that
        is `daemonized` has no standard input.  `objects` finds credentials and authorization by id.
        """
        self._chardevs: dict[str, Chardev] = {}
        self._opening: set[str] = set()
        self._report = report
        self._announce = announce
        self._end = end
        self._resolve_fd = resolve_fd
        self._daemonized = daemonized
        self._objects = objects
        self._added: Callable[[Chardev], object] = _ignore
        self._removed: Callable[[Chardev], object] = _ignore

    def watch(self, added: Callable[[Chardev], object], removed: Callable[[Chardev], object]) -> None:
        """Tell of each chardev, of those that exist at once, and of its removal; one watcher only."""
        self._added, self._removed = added, removed
        for chardev in self:
            added(chardev)

    def __iter__(self) -> Iterator[Chardev]:
        return iter(list(self._chardevs.values()))

    def get(self, label: str) -> Chardev | None:
        """The chardev with an ID."""
        return self._chardevs.get(label)

    # -- QMP's operations --------------------------------------------------------------------------------------------

    async def add(
        self, label: str, backend: ChardevBackend, *, resolve_fd: ResolveFd | None = None
    ) -> Chardev:
        """Make a chardev; all or nothing.  `resolve_fd` finds descriptors by name.

        GenericError: the ID is taken, or it cannot be opened.
        """
        if self._is_taken(label):
            raise GenericError(f"Chardev with id '{label}' already exists")
        try:
            return await self._add(label, backend, resolve_fd)
        except GenericError as error:
            raise GenericError(f"Failed to add chardev '{label}': {error}") from None

    async def remove(self, label: str) -> None:
        """Remove a chardev that nobody uses; what is pending leaves first, if it can."""
        chardev = self._chardevs.get(label)
        if chardev is None:
            raise GenericError(f"Chardev '{label}' not found")
        if chardev.is_busy:
            raise GenericError(f"Chardev '{label}' is busy")
        self._forget(chardev)
        try:
            await _drain([chardev])
        finally:
            chardev.close()

    async def change(
        self, label: str, backend: ChardevBackend, *, resolve_fd: ResolveFd | None = None
    ) -> Chardev:
        """Put another chardev in the place of one; its user, if it has one, goes over.

        GenericError: there is none, it or its user does not allow it, or the new one cannot be opened; the old one stays then.
        """
        old = self._chardevs.get(label)
        if old is None or label in self._opening:
            raise GenericError(f"Chardev '{label}' does not exist")
        if old.kind == "mux":
            raise GenericError("For mux or hub device hotswap is not supported yet")
        if not old.can_hand_over:
            raise GenericError("Chardev user does not support chardev hotswap")
        try:
            new = await self._open(label, backend, resolve_fd, replaces=old.identities)
        except GenericError as error:
            raise (
                error if old.is_busy else GenericError(f"Failed to add chardev '{label}': {error}")
            ) from None
        if self._chardevs.get(label) is not old or not old.can_hand_over:
            new.close()
            raise GenericError(f"Chardev '{label}' change failed")
        self._removed(old)
        self._chardevs[label] = new
        self._added(new)
        old.hand_over(new)
        old.close()
        return new

    # -- the command line --------------------------------------------------------------------------------------------

    async def open_options(self, text: str, warn: Callable[[str], None] | None = None) -> Chardev:
        """Make the chardev that an argument of -chardev describes.  GenericError, with QEMU's text.

        `warn` is told of words without a value.
        """
        from qemud.chardev.options import parse_options

        description = parse_options(text, warn)
        assert description.label is not None
        if self._is_taken(description.label):
            raise GenericError(f"Duplicate ID '{description.label}' for chardev")
        return await self._add_described(description.label, description)

    async def open_compact(self, label: str, text: str, *, mux_monitor: bool = False) -> Chardev:
        """Make the chardev that the short form describes, or find the one that `chardev:ID` names.

        GenericError, with QEMU's text; `qemud.chardev.options.NotationError` where QEMU adds a line about the notation.
        """
        if text.startswith("chardev:"):
            found = self._chardevs.get(text.removeprefix("chardev:"))
            if found is None:
                raise GenericError(f'chardev "{text.removeprefix("chardev:")}" not found')
            return found
        from qemud.chardev.options import parse_compact

        description = parse_compact(text, mux_monitor=mux_monitor)
        if self._is_taken(label):
            raise GenericError(f"Duplicate ID '{label}' for chardev")
        return await self._add_described(label, description)

    async def _add_described(self, label: str, description: Description) -> Chardev:
        """Make a chardev and, where it is wanted, a multiplexer on top."""
        if not description.mux:
            return await self._add(label, description.backend, None)
        from qemud._generated.types.char_backends import ChardevBackendMux, ChardevMux

        base = f"{label}-base"
        if self._is_taken(base):
            raise GenericError(f"Duplicate ID '{base}' for chardev")
        below = await self._add(base, description.backend, None)
        try:
            return await self._add(label, ChardevBackendMux(data=ChardevMux(chardev=base)), None)
        except BaseException:
            self._forget(below)
            below.close()
            raise

    # -- the end -----------------------------------------------------------------------------------------------------

    async def close_all(self) -> None:
        """Let pending output leave, for a short while, then close everything, the newest first."""
        await _drain(list(self._chardevs.values()))
        self.close_now()

    def close_now(self) -> None:
        """Close everything at once."""
        for chardev in reversed(list(self._chardevs.values())):
            self._forget(chardev)
            chardev.close()

    # -- making ------------------------------------------------------------------------------------------------------

    def _is_taken(self, label: str) -> bool:
        """Whether an ID has an owner, perhaps one that is being opened."""
        return label in self._chardevs or label in self._opening

    async def _add(self, label: str, backend: ChardevBackend, resolve_fd: ResolveFd | None) -> Chardev:
        """Open and remember."""
        chardev = await self._open(label, backend, resolve_fd)
        self._chardevs[label] = chardev
        try:
            self._added(chardev)
        except BaseException:
            del self._chardevs[label]
            chardev.close()
            raise
        return chardev

    def _forget(self, chardev: Chardev) -> None:
        """The ID is free."""
        del self._chardevs[chardev.label]
        self._removed(chardev)

    async def _open(
        self,
        label: str,
        backend: ChardevBackend,
        resolve_fd: ResolveFd | None,
        replaces: Collection[Identity] = (),
    ) -> Chardev:
        """Make and open a chardev; nothing is left behind when that fails."""
        common: ChardevCommon = backend.data  # type: ignore[attr-defined]  # every kind has it
        log: Log | None = None
        self._opening.add(label)
        try:
            if common.logfile is not None:
                from qemud.chardev.log import Log

                log = Log(common.logfile, append=common.logappend)
            try:
                chardev = self._make(label, backend, log, resolve_fd, replaces)
            except BaseException:
                if log is not None:
                    log.close()
                raise
            chardev.backend = backend
            try:
                await chardev.open()
            except BaseException:
                chardev.close()
                raise
        finally:
            self._opening.discard(label)
        return chardev

    def _make(
        self,
        label: str,
        backend: ChardevBackend,
        log: Log | None,
        resolve_fd: ResolveFd | None,
        replaces: Collection[Identity],
    ) -> Chardev:
        """The object of a kind, not open yet."""
        from qemud._generated.types import char_backends as kinds

        if isinstance(backend, kinds.ChardevBackendSocket):
            from qemud.chardev.address import inherited_fd
            from qemud.chardev.socket import SocketChardev

            return SocketChardev(
                label,
                backend.data,
                log,
                resolve_fd=resolve_fd or self._resolve_fd or inherited_fd,
                report=self._report,
                replaces=replaces,
                objects=self._objects,
            )
        if isinstance(backend, kinds.ChardevBackendStdio):
            from qemud.chardev.stdio import StdioChardev

            if self._daemonized:
                raise GenericError("cannot use stdio with -daemonize")
            return StdioChardev(label, backend.data, log)
        if isinstance(backend, kinds.ChardevBackendPty):
            from qemud.chardev.pty import PtyChardev

            return PtyChardev(label, backend.data, log, announce=self._announce)
        if isinstance(backend, kinds.ChardevBackendFile):
            from qemud.chardev.file import FileChardev

            return FileChardev(label, backend.data, log)
        if isinstance(backend, kinds.ChardevBackendPipe):
            from qemud.chardev.pipe import PipeChardev

            return PipeChardev(label, backend.data, log)
        if isinstance(backend, kinds.ChardevBackendRingbuf | kinds.ChardevBackendMemory):
            from qemud.chardev.ringbuf import RingbufChardev

            ringbuf = RingbufChardev(label, backend.data.size, log)
            ringbuf.filename = backend.type.value  # the only place where the old name is told from the new
            return ringbuf
        if isinstance(backend, kinds.ChardevBackendMux):
            from qemud.chardev.mux import MuxChardev

            base = self._chardevs.get(backend.data.chardev)
            if base is None:
                raise GenericError(f"mux: base chardev {backend.data.chardev} not found")
            return MuxChardev(label, base, log, end=self._end)
        from qemud.chardev.null import NullChardev

        assert isinstance(backend, kinds.ChardevBackendNull)
        return NullChardev(label, log)

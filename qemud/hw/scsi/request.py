"""A SCSI command under way, between a host adapter and a device.

The host adapter makes it, from a class of its own with `finished`, and submits it to a device.  The device answers at once, or when
the block layer has done what it was asked for:

    request.answer(bytes(36))                 data for the driver, and success
    request.check(INVALID_FIELD)              failure
    request.run(steps, segments, write=True)  requests to the block layer, one after another, on pages that are lent

**Cancelled commands.**  The driver takes one back, resets the device, or the user unplugs it: the command ends when nobody uses its
pages any more, and says ABORTED or RESET then.
"""

from __future__ import annotations

import errno
from enum import Enum
from typing import TYPE_CHECKING

from qemud.hw.scsi.command import TO_DEVICE, Command
from qemud.hw.scsi.sense import CHECK_CONDITION, GOOD, Refused, Sense, from_errno

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qemud.hw.scsi.bus import ScsiDevice
    from qemud.machine.dma import Lease, Segment

    Step = Callable[["Request"], object]

MAX_PARAMETERS = 65536
"""The most bytes of parameters that a command brings or fetches; sectors of disks are no parameters."""


class Outcome(Enum):
    """How a command ended."""

    COMPLETE = "complete"
    OVERRUN = "overrun"
    ABORTED = "aborted"
    RESET = "reset"


class Request:
    """See the module.

    `readable` and `writable` are the driver's data, one of which is empty; `anchor` is memory of the driver's that is in use as long
    as the command is.  `status`, `sense` and `transferred` (bytes) are the answer.
    """

    __slots__ = (
        "_steps",
        "anchor",
        "cdb",
        "command",
        "device",
        "ended",
        "is_unit_attention",
        "lease",
        "lun",
        "on_end",
        "outcome",
        "readable",
        "sense",
        "status",
        "tag",
        "transferred",
        "writable",
    )

    device: ScsiDevice
    command: Command

    def __init__(
        self,
        tag: int,
        lun: int,
        cdb: bytes,
        data: tuple[list[Segment], list[Segment]],
        anchor: Segment,
    ) -> None:
        self.tag = tag
        self.lun = lun
        self.cdb = cdb
        self.readable, self.writable = data
        self.anchor = anchor
        self.status = GOOD
        self.sense: Sense | None = None
        self.transferred = 0
        self.outcome = Outcome.COMPLETE
        self.is_unit_attention = False
        self.ended = False
        self.lease: Lease | None = None
        self.on_end: list[Callable[[], object]] = []
        self._steps: Iterator[Step] = iter(())

    # For the host adapter.

    def finished(self) -> None:
        """Tell the driver: `outcome`, `status`, `sense`."""
        raise NotImplementedError

    @property
    def room(self) -> int:
        """How much data the driver has given, or has room for."""
        return sum([piece[1] for piece in self.readable or self.writable])

    def fits(self) -> bool:
        """Whether the driver's data are what the command transfers, or more."""
        command = self.command
        pieces = self.readable if command.direction == TO_DEVICE else self.writable
        return sum([piece[1] for piece in pieces]) >= command.length

    def overrun(self) -> None:
        """The driver's data are too short, or for the other direction."""
        self.outcome = Outcome.OVERRUN
        self._end()

    # For the device.

    def good(self) -> None:
        """Success."""
        self.complete(GOOD, None)

    def check(self, sense: Sense) -> None:
        """Failure; the device says why."""
        self.complete(CHECK_CONDITION, sense)

    def complete(self, status: int, sense: Sense | None) -> None:
        """The command has ended with this status."""
        self.status = status
        self.sense = sense
        self.device.note_sense(self)
        self._end()

    def answer(self, data: bytes, *, exact: bool = False) -> None:
        """Data, then success: as much as is wanted, with zeroes behind it unless `exact`.  MemoryFault."""
        length = self.command.length
        data = data[:length]
        if not exact:
            data = data.ljust(length, b"\0")
        done = 0
        for address, size in self.writable:
            part = data[done : done + size]
            if not part:
                break
            self.device.dma.write(address, part)
            done += len(part)
        self.transferred = done
        self.good()

    def parameters(self) -> bytes:
        """What the driver has sent with the command.  MemoryFault."""
        left = self.command.length
        found: list[bytes] = []
        for address, size in self.readable:
            if not left:
                break
            found.append(self.device.dma.read(address, min(size, left)))
            left -= len(found[-1])
        return b"".join(found)

    def data(self, length: int) -> list[Segment]:
        """The first `length` bytes of the driver's data."""
        pieces = self.readable or self.writable
        found: list[Segment] = []
        for piece in pieces:
            address, size = piece
            if size >= length:
                if length:
                    found.append(piece if size == length else (address, length))
                break
            found.append(piece)
            length -= size
        return found

    # Requests to the block layer.

    def run(
        self, steps: Iterator[Step], segments: list[Segment] | None = None, *, write: bool = False
    ) -> None:
        """Do the steps, each of which calls `step_done` at its end; then success.  Refused; MemoryFault.

        `segments` are lent meanwhile, or else what the driver has for the answer.
        """
        first = next(steps, None)
        if first is None:
            self.good()
            return
        self._steps = steps
        self.lease = self.device.dma.lend([self.anchor] if segments is None else segments, write=write)
        first(self)
        if not self.ended:
            self.device.requests[self] = None

    def step_done(self, error: int) -> None:
        """The block layer has done what it could; `error` is 0 or an errno."""
        if self.ended:
            self._release()
            return
        if error or self.outcome is not Outcome.COMPLETE:
            self._stop(error)
            return
        try:
            following = next(self._steps, None)
        except Refused as refusal:
            self._release()
            self.check(refusal.sense)
            return
        if following is None:
            self._release()
            self.good()
        else:
            # Not from here: what is done at once would go on without ever letting the processor run.
            self.device.machine.mailboxes.post(self._go_on, following)

    def _go_on(self, step: Step) -> None:
        if self.ended:
            self._release()  # another state has been loaded meanwhile
        elif self.outcome is Outcome.COMPLETE:
            step(self)
        else:
            self._stop(0)

    def _stop(self, error: int) -> None:
        self._release()
        if self.outcome is Outcome.COMPLETE:
            self.transferred = 0
            self.complete(*from_errno(error))
        else:
            self._end()

    def _release(self) -> None:
        lease, self.lease = self.lease, None
        assert lease is not None
        lease.release()

    # Its end.

    def cancel(self, outcome: Outcome) -> None:
        """It ends as soon as nobody uses the driver's memory for it: at once, if it waits for the user."""
        if self.ended or self.outcome is not Outcome.COMPLETE:
            return
        self.outcome = outcome
        self.device.drop_parked(self)

    def parked_end(self) -> None:
        """It has waited for the user, and does no longer."""
        self.step_done(errno.ECANCELED)

    def _end(self) -> None:
        self.ended = True
        self.device.requests.pop(self, None)
        self.finished()
        for told in self.on_end:
            told()

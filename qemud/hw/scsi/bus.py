"""The SCSI bus and what is on it: addresses, unit attentions, and commands that are for the target as a whole.

A host adapter makes the bus, finds the device of an address, and submits a request to it:

    device = bus.find(target, lun)
    device.submit(request)

A target answers for logical units that it does not have, so `find` takes another unit of the target where there is not the right one.

Source: SCSI Architecture Model - 5 (SAM-5), SCSI Primary Commands - 4 (SPC-4); texts and order: QEMU 10.0, hw/scsi/scsi-bus.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qemud._generated.types.scsi import ScsiSense
from qemud.hw.scsi.command import NONE, TYPE_DISK, Op, parse
from qemud.hw.scsi.request import Outcome, Request
from qemud.hw.scsi.sense import (
    GOOD,
    INVALID_FIELD,
    INVALID_OPCODE,
    LUN_NOT_SUPPORTED,
    NO_SENSE,
    REPORTED_LUNS_CHANGED,
    RESET,
    Refused,
    Sense,
)
from qemud.machine.memory import MemoryFault
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Bus, Device

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud.machine.dma import LeaseOwner

ANY = (1 << 32) - 1
"""A target or unit that the user leaves open."""
VERSION = "2.5+"
"""The revision that targets tell, whatever that of the program is."""

_LONGEST = (1 << 31) - 1
_NOT_PRESENT = 0x1F | 0x20
_NO_LUN = 0x7F
_NO_ATTENTION = frozenset(
    (Op.INQUIRY, Op.REPORT_LUNS, Op.GET_CONFIGURATION, Op.GET_EVENT_STATUS_NOTIFICATION)
)
"""Commands that are served although there is something else to tell."""


class HostAdapter(Protocol):
    """What the bus needs of its host adapter."""

    @property
    def realized(self) -> bool:
        """Whether it works."""

    def device_came(self, device: ScsiDevice) -> None:
        """A device has been plugged in."""

    def device_went(self, device: ScsiDevice) -> None:
        """A device has been taken out."""

    def device_changed(self, device: ScsiDevice, sense: Sense) -> None:
        """A device is not what it was."""


class ScsiBus(Bus, type_name="SCSI"):
    """See the module.  `unit_attention` is what the first device that gets a command tells for all."""

    hotpluggable = True
    max_channel = 0
    max_target = 255
    max_lun = 16383

    def __init__(self, bus_name: str, adapter: HostAdapter) -> None:
        super().__init__(bus_name)
        self.adapter = adapter
        self.unit_attention: Sense | None = None

    def units(self) -> Iterable[ScsiDevice]:
        """All devices on it."""
        return [device for device in self.devices if isinstance(device, ScsiDevice)]

    def find(self, target: int, lun: int) -> ScsiDevice | None:
        """The unit, or another one of the target, or None."""
        found = None
        for device in self.units():
            if device.realized and device.target == target:
                if device.lun == lun:
                    return device
                found = found or device
        return found

    def is_free(self, target: int, lun: int) -> bool:
        """Whether there is no such unit."""
        return not any(unit.target == target and unit.lun == lun for unit in self.units())

    def attach(self, device: Device) -> None:
        """Plug a device in: give it an address, unless it has one that is free.  GenericError."""
        assert isinstance(device, ScsiDevice)
        device.find_address(self)
        super().attach(device)

    def detach(self, device: Device) -> None:
        """Take a device off, and tell the driver if it knows of it."""
        super().detach(device)
        assert isinstance(device, ScsiDevice)
        if device.plugged_in and self.adapter.realized:
            self.adapter.device_went(device)
        device.plugged_in = False

    def plugged(self, device: Device) -> None:
        """A device is there: tell the driver."""
        assert isinstance(device, ScsiDevice)
        device.plugged_in = True
        self.adapter.device_came(device)

    def set_unit_attention(self, sense: Sense) -> None:
        """Have it told, unless something more important is to be."""
        self.unit_attention = _more_important(self.unit_attention, sense)


class ScsiDevice(Device, type_name="scsi-device", abstract=True, bus_type="SCSI"):
    """A logical unit.  `target` and `lun` are its address, `block_size` is in bytes.

    A kind of device overrides `serve`, for commands that are its own.
    """

    kind: ClassVar[int] = TYPE_DISK
    options: Any
    state: Any
    dma: LeaseOwner

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.target = self.lun = 0
        self.block_size = 512
        self.plugged_in = False
        self.requests: dict[Request, None] = {}
        """Commands that the block layer has not done at once."""

    @property
    def scsi_bus(self) -> ScsiBus:
        """Its bus."""
        assert isinstance(self.bus, ScsiBus)
        return self.bus

    # For the kind of device.

    def serve(self, request: Request) -> None:
        """A command for this unit.  Refused; MemoryFault."""
        del request
        raise Refused(INVALID_OPCODE)

    def attention_told(self) -> None:
        """The driver has heard of the unit attention; there may be another one."""

    def drop_parked(self, request: Request) -> None:
        """Call `request.parked_end` if the command waits for the user."""

    def set_unit_attention(self, sense: Sense) -> None:
        """Have it told at the next command, unless something more important is to be."""
        now = self.state.unit_attention
        found = _more_important(None if now is None else _load(now), sense)
        self.state.unit_attention = None if found is None else save_sense(found)

    def report_change(self, sense: Sense) -> None:
        """The same, and tell the driver at once if it wants that."""
        self.set_unit_attention(sense)
        self.scsi_bus.adapter.device_changed(self, sense)

    # Life.

    def find_address(self, bus: ScsiBus) -> None:
        """Check the address, or find one.  GenericError with QEMU's text."""
        options = self.options
        target, lun = options.scsi_id, options.lun
        if options.channel > bus.max_channel:
            raise GenericError(f"bad scsi channel id: {options.channel}")
        if target not in range(bus.max_target + 1) and target != ANY:
            raise GenericError(f"bad scsi device id: {_signed(target)}")
        if lun not in range(bus.max_lun + 1) and lun != ANY:
            raise GenericError(f"bad scsi device lun: {_signed(lun)}")
        if ANY not in {target, lun}:
            for unit in bus.units():
                if unit.target == target and unit.lun == lun:
                    raise GenericError(f"lun already used by '{unit.id or '(null)'}'")
        elif target == ANY:
            lun = 0 if lun == ANY else lun
            found = next((n for n in range(bus.max_target + 1) if bus.is_free(n, lun)), None)
            if found is None:
                raise GenericError("no free target")
            target = found
        else:
            found = next((n for n in range(bus.max_lun + 1) if bus.is_free(target, n)), None)
            if found is None:
                raise GenericError("no free lun")
            lun = found
        self.target = options.scsi_id = target
        self.lun = options.lun = lun

    def realize(self) -> None:
        """Be ready for commands."""
        self.requests = {}
        self.dma = self.machine.dma.owner(self.path or self.type_name)

    def unrealize(self) -> None:
        """Commands under way are aborted."""
        self.cancel(tuple(self.requests), Outcome.ABORTED)
        self.dma.close()

    async def settled(self) -> None:
        """From the loop: wait until the outside has let go of the guest's memory."""
        await self.dma.returned()

    def reset_enter(self) -> None:
        """The state after power-on."""
        self.reset()

    def reset(self) -> None:
        """The machine or the driver resets the device: commands under way come to nothing."""
        self.cancel(tuple(self.requests), Outcome.RESET)
        self.dma.retire()
        self.set_unit_attention(RESET)

    def cancel(self, requests: Iterable[Request], outcome: Outcome) -> None:
        """Let commands come to nothing; see `qemud.hw.scsi.request`."""
        for request in requests:
            request.cancel(outcome)

    # Commands.

    def submit(self, request: Request) -> None:
        """Begin a command.  MemoryFault: the driver's data are not in memory."""
        request.device = self
        try:
            self._begin(request)
        except Refused as refusal:
            request.check(refusal.sense)
        except MemoryFault:
            # The device adapter is broken after that, and the command is no more.
            request.ended = True
            raise

    def _begin(self, request: Request) -> None:
        cdb = request.cdb
        if not cdb:
            raise Refused(INVALID_OPCODE)
        op = cdb[0]
        command = parse(cdb, block_size=self.block_size, kind=self.kind)
        if command is None:
            raise Refused(INVALID_OPCODE)
        if command.length > _LONGEST:
            raise Refused(INVALID_FIELD)
        request.command = command
        state = self.state
        if (state.unit_attention is not None or self.scsi_bus.unit_attention is not None) and (
            op not in _NO_ATTENTION
        ):
            self._tell_attention(request)
            return
        if command.direction != NONE and not request.fits():
            request.overrun()
        elif (
            request.lun != self.lun
            or op == Op.REPORT_LUNS
            or (op == Op.REQUEST_SENSE and state.sense is not None)
        ):
            self._serve_target(request, op)
        else:
            self.serve(request)

    def _tell_attention(self, request: Request) -> None:
        """Fail, since there is something that the driver is to know."""
        state = self.state
        if state.unit_attention is not None:
            sense = _load(state.unit_attention)
            state.unit_attention = None
        else:
            bus = self.scsi_bus
            assert bus.unit_attention is not None
            sense, bus.unit_attention = bus.unit_attention, None
        command = request.command
        request.is_unit_attention = True
        if command.direction != NONE and not request.fits():
            request.overrun()
        else:
            request.check(sense)

    def note_sense(self, request: Request) -> None:
        """A command has ended: keep its sense for a driver that asks, until the next command.

        The answer brought it along, and that clears a unit attention.
        """
        sense = request.sense
        if request.is_unit_attention:
            self.attention_told()
            sense = None
        self.state.sense = None if sense is None or request.status == GOOD else save_sense(sense)

    # The target as a whole.

    def _serve_target(self, request: Request, op: int) -> None:
        """A command for the target, or for a unit that it does not have."""
        if request.lun and op not in {Op.INQUIRY, Op.REQUEST_SENSE}:
            raise Refused(LUN_NOT_SUPPORTED)
        if op == Op.REPORT_LUNS:
            self._report_luns(request)
        elif op == Op.INQUIRY:
            request.answer(_inquiry(request), exact=True)
        elif op == Op.REQUEST_SENSE:
            fixed = not request.cdb[1] & 1
            kept = self.state.sense
            sense = LUN_NOT_SUPPORTED if request.lun else _load(kept) if kept is not None else NO_SENSE
            request.answer(sense.encode(fixed=fixed), exact=True)
        elif op == Op.TEST_UNIT_READY:
            request.good()
        else:
            raise Refused(INVALID_OPCODE)

    def _report_luns(self, request: Request) -> None:
        length = request.command.length
        if length < 16 or request.cdb[2] > 2:
            raise Refused(INVALID_FIELD)
        luns = [0, *(unit.lun for unit in self.scsi_bus.units() if unit.target == self.target and unit.lun)]
        content = b"".join((n if n < 256 else n | 0x4000).to_bytes(2, "big") + bytes(6) for n in luns)
        self._forget_luns_changed()
        request.answer((len(content).to_bytes(4, "big") + bytes(4) + content)[: length & ~7], exact=True)

    def _forget_luns_changed(self) -> None:
        """The driver knows of it now."""
        own = self.state.unit_attention
        if own is not None:
            if _load(own) == REPORTED_LUNS_CHANGED:
                self.state.unit_attention = None
        elif self.scsi_bus.unit_attention == REPORTED_LUNS_CHANGED:
            self.scsi_bus.unit_attention = None


def save_sense(sense: Sense) -> ScsiSense:
    """As a part of a saved state."""
    return ScsiSense(key=sense.key, asc=sense.asc, ascq=sense.ascq)


def _load(saved: ScsiSense) -> Sense:
    return Sense(saved.key, saved.asc, saved.ascq)


def load_sense(saved: ScsiSense | None) -> Sense | None:
    """From a part of a saved state."""
    return None if saved is None else _load(saved)


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _more_important(now: Sense | None, other: Sense) -> Sense | None:
    return other if now is None or other.precedence < now.precedence else now


def _inquiry(request: Request) -> bytes:
    """What a target says of a unit that it does not have.  Refused."""
    cdb = request.cdb
    if cdb[1] & 2 or (cdb[2] and not cdb[1] & 1):
        raise Refused(INVALID_FIELD)
    if cdb[1] & 1:
        if cdb[2]:
            raise Refused(INVALID_FIELD)
        return bytes([0, 0, 1, 0])
    length = min(request.command.length, 36)
    if request.lun:
        return bytes([_NO_LUN]) + bytes(35)
    head = bytes([_NOT_PRESENT, 0, 5, 0x12, max(length - 5, 0), 0, 0, 0x12])
    return head + b"QEMU    QEMU TARGET     " + VERSION.encode()[:3] + b"\0"

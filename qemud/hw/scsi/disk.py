"""Disks (`scsi-hd`) and drives for CDs and DVDs (`scsi-cd`) on a SCSI bus.

Blocks go straight between the guest's pages and the block layer, by leases.  A drive has a tray, which the guest locks, opens and closes,
and clients do; a medium that has changed is told of twice, as none and then as another one, since drivers look for that.

Source: SCSI Block Commands - 3 (SBC-3), SCSI Primary Commands - 4 (SPC-4), Multi-Media Commands - 6 (MMC-6); which commands there
are, checks and their order, texts: QEMU 10.0, hw/scsi/scsi-disk.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from qemud._generated.types.scsi import ScsiCdOptions, ScsiDiskState, ScsiHdOptions
from qemud.hw.block.drive import Drive
from qemud.hw.scsi.bus import VERSION, ScsiDevice
from qemud.hw.scsi.command import TYPE_DISK, TYPE_ROM
from qemud.hw.scsi.commands import serve
from qemud.hw.scsi.inquiry import MAX_SERIAL
from qemud.hw.scsi.sense import CAPACITY_CHANGED, MEDIUM_CHANGED, UNIT_ATTENTION_NO_MEDIUM
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.disk import Disk
    from qemud.hw.scsi.request import Request

_MAX_SERIAL_AS_ID = 20
_GRANULARITY = 4096
_SMALLEST_SECTOR = 512
_LARGEST_BLOCK_MASK = 0xFE00
_CD_BLOCK = 2048


class ScsiDisk(ScsiDevice, type_name="scsi-disk-base", abstract=True, state=ScsiDiskState):
    """See the module.  As `Medium` of the drive's backend it is asked by the loop, too."""

    default_product: ClassVar[str] = ""
    state: ScsiDiskState
    disk: Disk

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.drive = Drive(self, self.options)
        self.discard_granularity = 0

    def shown_option(self, name: str) -> Any:
        """As in QEMU, `drive` names what is there now, after snapshots, jobs and changes of the medium."""
        return self.drive.reference if name == "drive" else super().shown_option(name)

    # What it is.

    @property
    def removable(self) -> bool:
        """Whether the medium can be changed."""
        return False

    @property
    def vendor(self) -> str:
        """Who made it."""
        return "QEMU" if self.options.vendor is None else self.options.vendor

    @property
    def product(self) -> str:
        """What it is called."""
        return self.default_product if self.options.product is None else self.options.product

    @property
    def revision(self) -> str:
        """Its version."""
        return VERSION if self.options.ver is None else self.options.ver

    @property
    def device_id(self) -> str:
        """A name for it; empty if it has none."""
        options = self.options
        name = options.device_id if options.device_id is not None else options.serial
        return self.drive.backend.name if name is None else name

    @property
    def inserted(self) -> bool:
        """Whether there is a medium, be the tray open or not."""
        return self.drive.backend.node is not None

    @property
    def available(self) -> bool:
        """Whether there is a medium that can be reached."""
        return self.inserted and not self.state.tray_open

    @property
    def writable(self) -> bool:
        """Whether the guest can write."""
        return self.kind != TYPE_ROM and not self.disk.read_only

    @property
    def write_cache(self) -> bool:
        """Whether the guest has to flush what must be stable."""
        return self.drive.backend.enable_write_cache

    def set_write_cache(self, *, on: bool) -> None:
        """The guest chooses."""
        self.drive.backend.enable_write_cache = on

    def set_block_size(self, size: int) -> None:
        """The guest chooses another unit."""
        if size >= _SMALLEST_SECTOR:
            self.block_size = size

    @property
    def blocks(self) -> int:
        """The size of the medium."""
        return self.disk.size // self.block_size

    # Life.

    async def claim(self, services: Any) -> None:
        """Take the drive."""
        drive = self.drive
        rom = self.kind == TYPE_ROM
        try:
            await drive.find(services, may_be_empty=rom)
            self._check_medium()
            await drive.set_up(resizable=not rom, read_only=True if rom else None, geometry=not rom)
            self._check_names()
        except BaseException:
            await drive.release()
            raise
        logical = drive.logical
        granularity = drive.discard_granularity
        self.discard_granularity = max(logical, _GRANULARITY) if granularity is None else granularity
        if self.removable:
            drive.backend.medium = self
        drive.on_resize(self._resized)

    async def give_up(self) -> None:
        """Give the drive back."""
        await self.drive.release()

    def _check_medium(self) -> None:
        if not self.removable and self.drive.backend.node is None:
            raise GenericError("Device needs media, but drive is empty")

    def _check_names(self) -> None:
        serial = self.options.serial
        if serial is None:
            return
        if len(serial) > MAX_SERIAL:
            raise GenericError(f"The serial number can't be longer than {MAX_SERIAL} characters")
        if self.options.device_id is None and len(serial) > _MAX_SERIAL_AS_ID:
            raise GenericError(
                f"The serial number can't be longer than {_MAX_SERIAL_AS_ID} characters "
                "when it is also used as the default for device_id"
            )

    def realize(self) -> None:
        """Be ready for commands."""
        self.disk = self.drive.disk
        self.block_size = self._default_block_size()
        super().realize()
        self.drive.in_use = True

    def _default_block_size(self) -> int:
        return self.drive.logical

    def unrealize(self) -> None:
        """Commands under way are aborted."""
        super().unrealize()
        self.disk.drop_parked()

    def reset(self) -> None:
        """Commands under way come to nothing; the tray is closed, and nobody holds it."""
        super().reset()
        self.disk.drop_parked()
        self.state.tray_locked = False
        if self.state.tray_open:
            self.state.tray_open = False
            self.machine.mailboxes.send(self.drive.backend.update_now)

    def drop_parked(self, request: Request) -> None:
        """Call `request.parked_end` if the command waits for the user."""
        parked, lease = self.disk.parked, request.lease
        for waiting in tuple(parked):
            if lease is not None and waiting.lease is lease:
                parked.remove(waiting)
                lease.unpark()
                request.parked_end()

    def _resized(self) -> None:
        """Loop: the medium has another size."""
        self.machine.mailboxes.post(self._tell_size)

    def _tell_size(self) -> None:
        if self.realized and self.kind == TYPE_DISK:
            self.report_change(CAPACITY_CHANGED)

    # The medium.  The loop asks, or has the machine thread do something.

    @property
    def tray_open(self) -> bool:
        """Whether the tray is open."""
        return self.state.tray_open

    @property
    def medium_locked(self) -> bool:
        """Whether the guest holds the medium."""
        return self.state.tray_locked

    async def eject_request(self, *, force: bool) -> None:
        """Somebody would like to have the medium."""
        await self.machine.mailboxes.call(self._request_eject, force)

    def _request_eject(self, force: bool) -> None:
        self.state.eject_request = True
        if force:
            self.state.tray_locked = False

    async def medium_changed(self, *, loaded: bool) -> None:
        """A medium is there now, or the tray is opened to take it."""
        await self.machine.mailboxes.call(self._change_medium, loaded)

    def _change_medium(self, loaded: bool) -> None:
        state = self.state
        state.media_changed = loaded
        state.tray_open = not loaded
        self.set_unit_attention(UNIT_ATTENTION_NO_MEDIUM)
        state.media_event = True
        state.eject_request = False

    def attention_told(self) -> None:
        """The driver knows that there was no medium; now there is one again."""
        if self.state.media_changed:
            self.state.media_changed = False
            self.set_unit_attention(MEDIUM_CHANGED)

    # Commands.

    def serve(self, request: Request) -> None:
        """A command for this unit.  Refused; MemoryFault."""
        serve(self, request)

    # State.

    def before_save(self) -> None:
        """What the drive has of it."""
        self.state.write_cache = self.write_cache
        default = self._default_block_size()
        self.state.block_size = None if self.block_size == default else self.block_size

    def check_state(self, state: ScsiDiskState) -> None:
        """Refuse a block size that no driver can choose."""
        size = state.block_size
        if size is not None and (size < _SMALLEST_SECTOR or size & ~_LARGEST_BLOCK_MASK):
            raise GenericError(f"a block has {size} bytes, expected a multiple of 512 below 65536")

    def after_load(self) -> None:
        """Commands that waited are the host adapter's to begin again."""
        self.cancel_silently()
        self.block_size = self.state.block_size or self._default_block_size()
        self.set_write_cache(on=self.state.write_cache)
        self.machine.mailboxes.send(self.drive.backend.update_now)

    def cancel_silently(self) -> None:
        """Forget commands that wait: another state has been loaded."""
        for request in tuple(self.requests):
            request.ended = True
        self.requests = {}
        self.dma.retire()
        self.disk.drop_parked()


class ScsiHd(ScsiDisk, type_name="scsi-hd", options=ScsiHdOptions, state=ScsiDiskState, user_creatable=True):
    """A disk."""

    kind = TYPE_DISK
    default_product = "QEMU HARDDISK"
    options: ScsiHdOptions

    @property
    def removable(self) -> bool:
        """Whether the user wants it to be."""
        return self.options.removable


class ScsiCd(ScsiDisk, type_name="scsi-cd", options=ScsiCdOptions, state=ScsiDiskState, user_creatable=True):
    """A drive for CDs and DVDs."""

    kind = TYPE_ROM
    default_product = "QEMU CD-ROM"
    options: ScsiCdOptions

    @property
    def removable(self) -> bool:
        """Always."""
        return True

    def _default_block_size(self) -> int:
        return self.options.physical_block_size or _CD_BLOCK

"""The drive of a device: claimed in the event loop, used in the machine thread.

    drive = Drive(device, options)              # a device with the members of `BlockDeviceOptions` among its options
    await drive.find(services)                  # its backend: by the name of a drive, or of a node
    await drive.set_up()                        # permissions, policies, sizes, geometry
    drive.disk.read(offset, views, done, lease)
    await drive.release()

Source of rules and texts: QEMU 10.0, hw/block/block.c, hw/block/hd-geometry.c and util/block-helpers.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.block_info import BlockdevOnError
from qemud._generated.types.common import OnOffAuto
from qemud.block.backend import BlockBackend, claim_drive, release_drive
from qemud.block.disk import Disk
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

SECTOR = 512
"""Bytes, whatever the disk's own unit is."""
MAX_SECTORS = ((1 << 31) - 1) // SECTOR
"""The most that one request may be about, in sectors."""

_SMALLEST, _LARGEST = 512, 2 << 20
_U32 = (1 << 32) - 1
DEFAULT_GRANULARITY = _U32


class Drive:
    """See the module.

    `logical`, `physical`, `min_io`, `opt_io` and `discard_granularity` (None: the device's unit) are in bytes; `cylinders`, `heads` and
    `sectors` are the geometry.
    """

    disk: Disk

    def __init__(self, device: Any, options: Any) -> None:
        self._device = device
        self._options = options
        self._backend: BlockBackend | None = None
        self._services: Any = None
        self.logical = self.physical = SECTOR
        self.min_io = self.opt_io = 0
        self.discard_granularity: int | None = None
        self.cylinders = self.heads = self.sectors = 0
        self.in_use = False
        """Whether the device has been made, and is unplugged when it gives the drive back; the device says so."""
        self.write_cache = True
        """What the user has chosen; the guest may change it until the next reset."""

    @property
    def backend(self) -> BlockBackend:
        """What the device has claimed."""
        assert self._backend is not None
        return self._backend

    @property
    def reference(self) -> str | None:
        """What the option `drive` is shown as: what names the backend now, or as it was given while there is none."""
        backend = self._backend
        return self._options.drive if backend is None else backend.reference

    async def find(self, services: Any, *, may_be_empty: bool = False) -> None:
        """Take the backend that the option `drive` names; with `may_be_empty` one without a medium if it names none.

        GenericError.
        """
        self._check_ranges()
        if may_be_empty and not self._options.drive:
            self._services = services
            self._backend = BlockBackend(services.block)
            self._backend.attach_device(self._device)
            return
        if not self._options.drive:
            raise GenericError("drive property not set")
        self._services = services
        self._backend = await claim_drive(services.block, self._device, "drive", self._options.drive)

    async def set_up(
        self, *, resizable: bool = True, read_only: bool | None = None, geometry: bool = True
    ) -> None:
        """Make the backend what the options say.  GenericError; `release` then gives it back."""
        backend, options = self.backend, self._options
        backend.configure(
            read_only=backend.read_only if read_only is None else read_only,
            resizable=resizable,
            share_rw=options.share_rw,
        )
        if options.write_cache is not OnOffAuto.AUTO:
            backend.enable_write_cache = options.write_cache is OnOffAuto.ON
        self.write_cache = backend.chosen_write_cache = backend.enable_write_cache
        if options.rerror is not BlockdevOnError.AUTO:
            backend.on_read_error = options.rerror
        if options.werror is not BlockdevOnError.AUTO:
            backend.on_write_error = options.werror
        stats = backend.stats
        if options.account_invalid is not OnOffAuto.AUTO:
            stats.account_invalid = options.account_invalid is OnOffAuto.ON
        if options.account_failed is not OnOffAuto.AUTO:
            stats.account_failed = options.account_failed is OnOffAuto.ON
        if geometry:
            await self._find_geometry()
        self._find_sizes()
        vm = self._services.vm
        self.disk = Disk(backend, vm.mailboxes, vm)

    async def release(self) -> None:
        """Give everything back; what `find` or `set_up` has not taken is not missed."""
        if "disk" in self.__dict__:
            self.disk.close()
            del self.disk
        if self._backend is not None:
            backend, self._backend = self._backend, None
            await release_drive(backend, unplugged=self.in_use)

    def on_resize(self, tell: Callable[[], None]) -> None:
        """Call `tell` in the loop whenever the medium has another size."""
        self.backend.on_resize.append(tell)

    # Options.

    def _check_ranges(self) -> None:
        options = self._options
        for name in ("logical_block_size", "physical_block_size"):
            value = getattr(options, name)
            if value and not (_SMALLEST <= value <= _LARGEST and value & value - 1 == 0):
                raise GenericError(
                    f"parameter {name} must be a power of 2 between {_SMALLEST} and {_LARGEST}"
                )
        for name in ("min_io_size", "opt_io_size", "discard_granularity"):
            value = getattr(options, name)
            if value > _U32:
                raise GenericError(
                    f"Property {self._device.type_name}.{name} doesn't take value {value} (maximum: {_U32})"
                )

    def _find_sizes(self) -> None:
        options = self._options
        self.physical = options.physical_block_size or SECTOR
        self.logical = logical = options.logical_block_size or SECTOR
        self.min_io, self.opt_io = options.min_io_size, options.opt_io_size
        granularity = options.discard_granularity
        node = self.backend.node
        if (
            options.backend_defaults is OnOffAuto.ON
            and granularity == DEFAULT_GRANULARITY
            and node is not None
        ):
            if node.discard_alignment > 1:
                granularity = node.discard_alignment
            elif node.request_alignment > 1:
                granularity = node.request_alignment
        if logical > self.physical:
            _refuse("logical_block_size > physical_block_size not supported")
        if self.min_io % logical:
            _refuse("min_io_size must be a multiple of logical_block_size")
        if self.min_io // logical > 0xFFFF:
            _refuse("min_io_size must not exceed 65535 logical blocks")
        if self.opt_io % logical:
            _refuse("opt_io_size must be a multiple of logical_block_size")
        if granularity != DEFAULT_GRANULARITY:
            if granularity % logical:
                _refuse("discard_granularity must be a multiple of logical_block_size")
            self.discard_granularity = granularity

    async def _find_geometry(self) -> None:
        """The options', or what the partition table tells, or what one has for a disk of the size."""
        options = self._options
        cylinders, heads, sectors = options.cyls, options.heads, options.secs
        if cylinders or heads or sectors:
            for name, value, most in (
                ("cyls", cylinders, 65535),
                ("heads", heads, 255),
                ("secs", sectors, 255),
            ):
                if not 1 <= value <= most:
                    _refuse(f"{name} must be between 1 and {most}")
        else:
            cylinders, heads, sectors = await self._guess_geometry()
        self.cylinders, self.heads, self.sectors = cylinders, heads, sectors

    async def _guess_geometry(self) -> tuple[int, int, int]:
        backend = self.backend
        total = backend.size // SECTOR
        first = bytearray(SECTOR)
        try:
            await backend.readv(0, [memoryview(first)])
        except OSError:
            first = bytearray(SECTOR)
        usual = min(max(total // (16 * 63), 2), 16383), 16, 63
        if first[510:512] != b"\x55\xaa":
            return usual
        for entry in range(0x1BE, 0x1FE, 16):
            count = int.from_bytes(first[entry + 12 : entry + 16], "little")
            heads, sectors = first[entry + 5] + 1, first[entry + 6] & 63
            if not count or heads == 1 or not sectors:
                continue
            cylinders = total // (heads * sectors)
            if 1 <= cylinders <= 16383:
                # More than 16 heads are those of a translation by a BIOS.
                return usual if heads > 16 else (cylinders, heads, sectors)
        return usual


def _refuse(text: str) -> NoReturn:
    raise GenericError(text)

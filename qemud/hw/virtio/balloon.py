"""A balloon: `virtio-balloon-device`.

The client says how much memory the guest is to have (`balloon`); the driver looks for pages that it can do without and tells them by
the first queue, which is when the host has them again.  By the second it takes them back, by the third it tells
figures of its memory when it is asked for them, and by the last (`free-page-reporting`) it gives back whatever is free.

What the guest gives back is really gone: the pages are taken out of the file that is its memory, and code that was translated from
there is dropped.  The memory stays mapped, so that nobody is hurt who has lent it, or runs it: pages that are touched again are new ones.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.5; texts, names of the figures: QEMU 10.0, hw/virtio/virtio-balloon.c.
"""

from __future__ import annotations

import mmap
import time
from struct import Struct, unpack
from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.balloon import (
    BalloonFigures,
    BalloonStatistics,
    VirtioBalloonOptions,
    VirtioBalloonState,
    VirtioBalloonStatus,
)
from qemud.hw.virtio.device import STATUS_DRIVER_OK, VirtioDevice
from qemud.hw.virtio.queue import QueueError
from qemud.logs import guest_error
from qemud.machine.clock import NS_PER_SECOND
from qemud.machine.memory import SectionKind
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.machine import Machine

if TYPE_CHECKING:
    from typing import Any

    from qemud._generated.types.virtio import VirtQueueElement
    from qemud.hw.virtio.queue import Element
    from qemud.machine.clock import Timer
    from qemud.machine.dma import Segment

FEATURE_STATS_VQ = 1 << 1
FEATURE_DEFLATE_ON_OOM = 1 << 2
FEATURE_PAGE_POISON = 1 << 4
FEATURE_REPORTING = 1 << 5

INFLATE, DEFLATE, FIGURES, REPORTING = range(4)
"""Queues."""

PAGE = 4096
"""The unit of the driver, whatever the size of pages is."""
MOST_PAGES = 1 << 16
"""What one request may be about: 256 MiB.  Drivers send 256 or 1024 pages at a time."""

_QUEUE_SIZE = 128
_REPORTING_QUEUE_SIZE = 32
_CONFIG = Struct("<IIII")
_CONFIG_WITHOUT_POISON = 8
_ACTUAL, _POISON = slice(4, 8), slice(12, 16)
_FIGURE = Struct("<HQ")
_COUNT = len(BalloonFigures.__struct_fields__)
_UNKNOWN = (1 << 64) - 1
_LONGEST_INTERVAL = (1 << 32) - 1


class VirtioBalloon(
    VirtioDevice,
    type_name="virtio-balloon-device",
    options=VirtioBalloonOptions,
    state=VirtioBalloonState,
    status=VirtioBalloonStatus,
    links={"iothread": "iothread"},
    user_creatable=True,
):
    """See the module."""

    device_id: ClassVar[int] = 5
    options: VirtioBalloonOptions
    state: VirtioBalloonState
    _poll: Timer

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._buffer: Element | None = None
        self._restored: VirtQueueElement | None = None
        self._services: Any = None

    # Life.

    async def claim(self, services: Any) -> None:
        """Remember where events go."""
        self._services = services

    def realize(self) -> None:
        """Be the only one."""
        if any(isinstance(node, VirtioBalloon) and node.realized for node in self.root.walk()):
            raise GenericError("Only one balloon device is supported")
        self._check_interval()
        self._poll = self.machine.clock.timer(self._ask_for_figures)
        sizes: tuple[int, ...] = (_QUEUE_SIZE,) * 3
        if self.options.free_page_reporting:
            sizes = (*sizes, _REPORTING_QUEUE_SIZE)
        self.queue_sizes = sizes
        super().realize()
        self._begin_to_ask()

    def unrealize(self) -> None:
        """Ask no more."""
        self._poll.cancel()
        super().unrealize()

    def property_changed(self, name: str) -> None:
        """Another interval may be set at any time."""
        if name == "guest-stats-polling-interval":
            self._check_interval()
            if self.in_use:
                self._begin_to_ask()

    def _check_interval(self) -> None:
        interval = self.options.guest_stats_polling_interval
        if interval < 0:
            raise GenericError("timer value must be greater than zero")
        if interval > _LONGEST_INTERVAL:
            raise GenericError("timer value is too big")

    def _begin_to_ask(self) -> None:
        if self.options.guest_stats_polling_interval:
            self._poll.arm(self.machine.clock.now())
        else:
            self._poll.cancel()

    def reset_enter(self) -> None:
        """The state after power-on: nothing is known of the guest."""
        super().reset_enter()
        self.state.figures = []
        self.state.last_update = 0

    def reset_device(self) -> None:
        """The driver begins anew; what the balloon holds is the same."""
        self._buffer = self._restored = None
        self.state.poison_value = 0

    # The client.

    @property
    def memory_size(self) -> int:
        """How much memory the guest has without a balloon, in bytes."""
        node = self.parent
        while node is not None and not isinstance(node, Machine):
            node = node.parent
        return getattr(node, "ram_size", 0)

    @property
    def actual(self) -> int:
        """How much it has, in bytes."""
        return self.memory_size - self.state.actual * PAGE

    def ask_for(self, size: int) -> None:
        """The guest is to have that many bytes."""
        self.state.num_pages = (self.memory_size - min(size, self.memory_size)) // PAGE
        self.config_changed()

    def status(self) -> VirtioBalloonStatus:
        """The last figures."""
        figures = self.state.figures or [_UNKNOWN] * _COUNT
        named = dict(zip(BalloonFigures.__struct_fields__, figures, strict=True))
        return VirtioBalloonStatus(
            guest_stats=BalloonStatistics(stats=BalloonFigures(**named), last_update=self.state.last_update)
        )

    # What the driver sees.

    def features(self) -> int:
        """What the user lets it have."""
        options = self.options
        features = FEATURE_STATS_VQ
        if options.deflate_on_oom:
            features |= FEATURE_DEFLATE_ON_OOM
        if options.page_poison:
            features |= FEATURE_PAGE_POISON
        if options.free_page_reporting:
            features |= FEATURE_REPORTING
        return features

    def config(self) -> bytes:
        """The layout is that of the standard's `virtio_balloon_config`; nobody asks for hints of free pages."""
        state = self.state
        content = _CONFIG.pack(state.num_pages, state.actual, 0, state.poison_value)
        return content if self.options.page_poison else content[:_CONFIG_WITHOUT_POISON]

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver tells how much is in the balloon, and what is in free pages."""
        content = bytearray(self.config())
        content[offset : offset + len(data)] = data
        state, before = self.state, self.state.actual
        # More than there is would be less than nothing.
        state.actual = min(int.from_bytes(content[_ACTUAL], "little"), self.memory_size // PAGE)
        if state.features & FEATURE_PAGE_POISON:
            state.poison_value = int.from_bytes(content[_POISON], "little")
        if state.actual != before and self._services is not None:
            self.machine.mailboxes.send(self._tell_clients, self.actual)

    def _tell_clients(self, actual: int) -> None:
        from qemud._generated.events.balloon import balloon_change

        balloon_change(self._services.emit, actual=actual)

    # Queues.

    def handle_queue(self, index: int) -> None:
        """Take pages, or figures."""
        if index == FIGURES:
            self._take_figures()
            return
        queue = self.queues[index]
        while (element := queue.pop()) is not None:
            if index == INFLATE:
                self._give_back(self._listed(element))
            elif index == REPORTING and not self.state.poison_value:
                self._give_back([piece for piece in element.writable if not (piece[0] | piece[1]) % PAGE])
            # Who takes a page out of the balloon has it by touching it.
            queue.push(element, 0)
        queue.notify()

    def _listed(self, element: Element) -> list[Segment]:
        """The pages of a list, neighbours as one.  QueueError; MemoryFault."""
        size = sum(length for _, length in element.readable) // 4
        if size > MOST_PAGES:
            raise QueueError(f"a request of {size} pages, expected at most {MOST_PAGES}")
        content = b"".join([self.dma.read(*piece) for piece in element.readable])
        found: list[Segment] = []
        begin = end = -1
        for number in sorted(set(unpack(f"<{size}I", content[: 4 * size]))):
            if number != end:
                if end >= 0:
                    found.append((begin * PAGE, (end - begin) * PAGE))
                begin = number
            end = number + 1
        if end >= 0:
            found.append((begin * PAGE, (end - begin) * PAGE))
        return found

    def _give_back(self, stretches: list[Segment]) -> None:
        """Give memory to the host, where it is memory."""
        gone: list[Segment] = []
        wrong: int | None = None
        for address, size in stretches:
            start, end = address, address + size
            while start < end:
                section = self.machine.memory.find(start)
                if section is None or section.kind is not SectionKind.RAM:
                    wrong = start
                    break
                length = min(end, section.end) - start
                offset = section.block_offset + start - section.base
                # The host may have larger pages than the driver: only whole ones can go.
                first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
                last = (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE
                if first < last and self._discard(section.block, first, last - first):
                    gone.append((start + first - offset, last - first))
                start += length
        if gone:
            self.machine.memory.all_written(gone)
        if wrong is not None:
            guest_error("virtio-balloon", "a page that is no memory", address=wrong, device=self.path)

    def _discard(self, block: Any, offset: int, size: int) -> bool:
        try:
            block.discard(offset, size)
        except OSError as error:  # a file system that cannot: the guest has given it all the same
            guest_error("virtio-balloon", f"memory cannot be given back: {error.strerror}", device=self.path)
            return False
        return True

    # Figures.

    def _take_figures(self) -> None:
        """The driver tells figures by a buffer that it gets back when it is asked for new ones."""
        queue = self.queues[FIGURES]
        element = queue.pop()
        if element is None:
            self._ask_later()
            return
        kept, self._buffer = self._take_up(), element
        if kept is not None:
            queue.push(kept, 0)
            queue.notify()
        figures = [_UNKNOWN] * _COUNT
        size = min(sum(length for _, length in element.readable), _FIGURE.size * 4 * _COUNT)
        content = b""
        for address, length in element.readable:
            content += self.dma.read(address, min(length, size - len(content)))
        for at in range(0, len(content) - _FIGURE.size + 1, _FIGURE.size):
            tag, value = _FIGURE.unpack_from(content, at)
            if tag < _COUNT:
                figures[tag] = value
        self.state.figures = figures
        self.state.last_update = int(time.time())
        self._ask_later()

    def _take_up(self) -> Element | None:
        """The buffer that the driver has lent, also one from before a state was loaded."""
        if self._restored is not None:
            self._buffer = self.queues[FIGURES].load_element(self._restored)
            self._restored = None
        return self._buffer

    def _ask_later(self) -> None:
        interval = self.options.guest_stats_polling_interval
        if interval:
            self._poll.arm(self.machine.clock.now() + interval * NS_PER_SECOND)

    def _ask_for_figures(self) -> None:
        """Give the buffer back: the driver fills it anew."""
        buffer = self._take_up()
        if buffer is None or not self.state.features & FEATURE_STATS_VQ:
            self._ask_later()
            return
        self._buffer = None
        self.attempt(self._return, buffer)

    def _return(self, buffer: Element) -> None:
        queue = self.queues[FIGURES]
        queue.push(buffer, 0)
        queue.notify()

    def set_status(self, status: int) -> None:
        """A driver may have put its buffer there before it said that it is ready."""
        if status & STATUS_DRIVER_OK and self._take_up() is None and self.queues[FIGURES].ready:
            self.serve(FIGURES)

    # State.

    def before_save(self) -> None:
        """The buffer for figures."""
        super().before_save()
        self.state.figures_buffer = self._restored if self._buffer is None else self._buffer.save()

    def check_state(self, state: VirtioBalloonState) -> None:  # type: ignore[override]  # its own struct, as everywhere
        """Refuse another number of figures, and a balloon that is larger than the machine."""
        super().check_state(state)
        if len(state.figures) not in {0, _COUNT}:
            raise GenericError(f"there are {len(state.figures)} figures, expected {_COUNT}")
        for name, pages in (("num-pages", state.num_pages), ("actual", state.actual)):
            if pages * PAGE > self.memory_size:
                raise GenericError(f"'{name}' is {pages}, which is more memory than there is")

    def after_load(self) -> None:
        """Ask again when it is time."""
        super().after_load()
        self._buffer = None
        self._restored, self.state.figures_buffer = self.state.figures_buffer, None
        self._ask_later()

"""SiFive's platform-level interrupt controller (`riscv.sifive.plic`).

    priority-base + 4*s                     priority of source s
    pending-base + 4*w                      pending bits of sources 32*w to 32*w+31, read only
    enable-base + stride*c + 4*w            enable bits of context c
    context-base + stride*c                 threshold of context c
    context-base + stride*c + 4             claim (read) and complete (write)

Each source has a gateway: it forwards one request when its level is high, and no other before that one is completed.  A claim takes the
pending source of the highest priority, the lowest number among equals, whatever the threshold; the threshold only decides whether
the hart is interrupted.  A completion by a context that does not have the source enabled is ignored.

Source: RISC-V Platform-Level Interrupt Controller Specification 1.0.0; SiFive FU540-C000 Manual v1p4, chapter 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qemud._generated.types.hw_riscv import SifivePlicOptions, SifivePlicState
from qemud.logs import guest_error
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import SysBusDevice

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_SOURCES = 1024


class Context(NamedTuple):
    """A hart in one of its modes, as seen by the controller."""

    hart: int
    mode: str


def parse_hart_config(config: str) -> list[Context]:
    """The contexts that a "MS,MS" stands for, in order. Raises GenericError for unknown and repeated modes."""
    contexts: list[Context] = []
    for hart, modes in enumerate(part for part in config.split(",") if part):
        for index, mode in enumerate(modes):
            if mode not in "MSU":
                raise GenericError(f"plic: invalid mode '{mode}'")
            if mode in modes[:index]:
                raise GenericError(f"plic: duplicate mode '{mode}' in config: {config}")
            contexts.append(Context(hart, mode))
    return contexts


class SifivePlic(
    SysBusDevice, type_name="riscv.sifive.plic", options=SifivePlicOptions, state=SifivePlicState
):
    """See the module.  Output line c interrupts context c; `set_source` is what sources drive."""

    options: SifivePlicOptions
    state: SifivePlicState

    def __init__(self, options: SifivePlicOptions | None = None) -> None:
        super().__init__(options)
        self.contexts = parse_hart_config(self.options.hart_config)
        self.init_irq(len(self.contexts))
        self._outputs: list[int] = []
        self._words = _words(self.options)
        self.counts: dict[int, int] = {}
        """How many requests each source has made since the machine was built; for people who debug, not for the guest."""

    def initial_state(self) -> SifivePlicState:
        """Nothing enabled, nothing pending."""
        words = _words(self.options)
        contexts = len(parse_hart_config(self.options.hart_config))
        return SifivePlicState(
            level=[0] * words,
            pending=[0] * words,
            claimed=[0] * words,
            priority=[0] * self.options.num_sources,
            threshold=[0] * contexts,
            enable=[0] * (words * contexts),
        )

    def realize(self) -> None:
        """Check that the registers do not lie upon each other, and claim them."""
        options = self.options
        count = len(self.contexts)
        words = _words(options)
        if not 0 < options.num_sources <= _MAX_SOURCES:
            raise GenericError("plic: invalid number of interrupt sources")
        if not count:
            raise GenericError("plic: hart-config names no context")
        if options.enable_stride < 4 * words or options.context_stride < 8:
            raise GenericError("plic: the strides are too small for the number of sources")
        regions = sorted(
            (
                (options.priority_base, 4 * options.num_sources),
                (options.pending_base, 4 * words),
                (options.enable_base, options.enable_stride * count),
                (options.context_base, options.context_stride * count),
            )
        )
        ends = [base + size for base, size in regions]
        if any(end > base for end, (base, _) in zip(ends, regions[1:], strict=False)):
            raise GenericError("plic: registers overlap")
        if ends[-1] > options.aperture_size:
            raise GenericError(
                f"plic: aperture-size {options.aperture_size:#x} is too small for the registers"
            )
        self._words = words
        self.mmio.clear()
        self.init_mmio("riscv.sifive.plic", options.aperture_size, min_access=4, max_access=4)

    def reset_enter(self) -> None:
        """Forget everything but the levels of the inputs, which are not this device's to change."""
        level = self.state.level
        self.state = self.initial_state()
        self.state.level = level

    def reset_hold(self) -> None:
        """All outputs low."""
        self._outputs = [0] * len(self.contexts)
        for line in self.irqs:
            line.lower()

    def reset_exit(self) -> None:
        """Let gateways forward what is high already."""
        for source in range(1, self.options.num_sources):
            self._forward(source)

    def check_state(self, state: SifivePlicState) -> None:
        """The arrays have the sizes that the options say."""
        expected = self.initial_state()
        for name in ("level", "pending", "claimed", "priority", "threshold", "enable"):
            found, wanted = len(getattr(state, name)), len(getattr(expected, name))
            if found != wanted:
                raise GenericError(f"'{name}' has {found} elements, expected {wanted}")

    def after_load(self) -> None:
        """Drive every output anew."""
        self._outputs = [-1] * len(self.contexts)
        self._update()

    def set_source(self, source: int, level: int) -> None:
        """Source `source` drives its input to `level`. Source 0 does not exist; numbers out of range are a board's mistake."""
        assert 0 < source < self.options.num_sources
        word, bit = source >> 5, 1 << (source & 31)
        levels = self.state.level
        if level:
            levels[word] |= bit
            if self._forward(source):
                self._update()
        else:
            levels[word] &= ~bit

    # -- registers --------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """A load from a register; what is no register reads as 0."""
        del size
        options = self.options
        if 0 <= offset - options.context_base < options.context_stride * len(self.contexts):
            context, register = divmod(offset - options.context_base, options.context_stride)
            if register == 0:
                return self.state.threshold[context]
            if register == 4:
                return self._claim(context)
            found = None
        else:
            found = self._array(offset)
        if found is None:
            guest_error("riscv.sifive.plic", "load from no register", offset=f"{offset:#x}")
            return 0
        words, index, _ = found
        return words[index]

    def write(self, offset: int, value: int, size: int) -> None:
        """A store to a register; what is no register or cannot be written ignores it."""
        del size
        options = self.options
        if 0 <= offset - options.context_base < options.context_stride * len(self.contexts):
            context, register = divmod(offset - options.context_base, options.context_stride)
            if register == 0:
                self._set_priority(self.state.threshold, context, value)
                return
            if register == 4:
                self._complete(context, value)
                return
            found = None
        else:
            found = self._array(offset)
        if found is None:
            guest_error(
                "riscv.sifive.plic", "store to no register", offset=f"{offset:#x}", value=f"{value:#x}"
            )
            return
        words, index, store = found
        store(words, index, value)

    def _array(self, offset: int) -> tuple[list[int], int, Callable[[list[int], int, int], None]] | None:
        """Which element of which array a register is, and how it is written."""
        options = self.options
        index = (offset - options.priority_base) >> 2
        if 0 <= index < options.num_sources:
            return self.state.priority, index, self._set_priority if index else _ignore
        index = (offset - options.pending_base) >> 2
        if 0 <= index < self._words:
            return self.state.pending, index, _ignore
        if 0 <= offset - options.enable_base < options.enable_stride * len(self.contexts):
            context, register = divmod(offset - options.enable_base, options.enable_stride)
            if register < 4 * self._words:
                return self.state.enable, context * self._words + (register >> 2), self._set_enable
        return None

    def _set_priority(self, priorities: list[int], index: int, value: int) -> None:
        """Priorities and thresholds are WARL: bits that are not there read as 0, values out of range change nothing."""
        highest = self.options.num_priorities
        if highest & (highest + 1) == 0:
            value &= highest
        elif value > highest:
            return
        priorities[index] = value
        self._update()

    def _set_enable(self, words: list[int], index: int, value: int) -> None:
        if index % self._words == 0:
            value &= ~1  # there is no source 0
        words[index] = value
        self._update()

    # -- gateways and arbitration -----------------------------------------------------------------------------------

    def _forward(self, source: int) -> bool:
        """Let a gateway make its request; whether it did."""
        state = self.state
        word, bit = source >> 5, 1 << (source & 31)
        if not state.level[word] & bit or (state.pending[word] | state.claimed[word]) & bit:
            return False
        state.pending[word] |= bit
        self.counts[source] = self.counts.get(source, 0) + 1
        return True

    def _best(self, context: int) -> tuple[int, int]:
        """The source to be claimed next and its priority; (0, 0) when there is none. Priority 0 is never."""
        state = self.state
        enable = state.enable
        at = context * self._words
        best = highest = base = 0
        for pending in state.pending:
            bits = pending and pending & enable[at]
            while bits:
                lowest = bits & -bits
                bits ^= lowest
                source = base + lowest.bit_length() - 1
                priority = state.priority[source]
                if priority > highest:
                    best, highest = source, priority
            base += 32
            at += 1
        return best, highest

    def _claim(self, context: int) -> int:
        source, _ = self._best(context)
        if source:
            word, bit = source >> 5, 1 << (source & 31)
            self.state.pending[word] &= ~bit
            self.state.claimed[word] |= bit
            self._update()
        return source

    def _complete(self, context: int, source: int) -> None:
        if not 0 < source < self.options.num_sources:
            guest_error("riscv.sifive.plic", "completion of a source that does not exist", source=source)
            return
        state = self.state
        word, bit = source >> 5, 1 << (source & 31)
        if not state.enable[context * self._words + word] & bit:
            return
        state.claimed[word] &= ~bit
        self._forward(source)
        self._update()

    def _update(self) -> None:
        """Interrupt every context that has a source above its threshold, and no other."""
        for context, line in enumerate(self.irqs):
            level = int(self._best(context)[1] > self.state.threshold[context])
            if level != self._outputs[context]:
                self._outputs[context] = level
                line.set(level)


def _words(options: SifivePlicOptions) -> int:
    """How many words have a bit for each source."""
    return (options.num_sources + 31) // 32


def _ignore(_words: list[int], index: int, value: int) -> None:
    """A register that cannot be written."""
    guest_error("riscv.sifive.plic", "store to a read-only register", index=index, value=f"{value:#x}")

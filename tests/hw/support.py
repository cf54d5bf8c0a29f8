"""A machine for the tests of devices: real clocks, memory and tree, a vCPU that only remembers, and time that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.machine.clock import HostClock, VirtualClock
from qemud.machine.dma import Dma
from qemud.machine.irq import Irq
from qemud.machine.memory import AddressSpace
from qemud.qom.device import Device, SysBusDevice

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.run_state import ShutdownCause

MISA_GC = (2 << 62) | sum(1 << (ord(letter) - ord("a")) for letter in "imafdcsu")


class Time:
    """Nanoseconds that pass when told."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def __call__(self) -> int:
        return self.ns


class FakeVcpu:
    """Registers in dicts; what boards and firmware do to a hart can be looked at."""

    def __init__(self) -> None:
        self.index = 0
        self.failure = ""
        self.on_attention: Callable[[], None] = lambda: None
        self.on_failure: Callable[[BaseException], None] = lambda _: None
        self.on_ecall: Callable[[], bool] | None = None
        self.pc = 0
        self.mode = 3
        self.mip = 0
        self.halted = False
        self.x = [0] * 32
        self.csrs: dict[int, int] = {0x301: MISA_GC}
        self.flushes = 0
        self.mapped: dict[int, int] = {}

    def set_interrupt(self, bit: int, level: int) -> None:
        assert level in {0, 1}
        self.mip = self.mip | 1 << bit if level else self.mip & ~(1 << bit)

    def gpr(self, n: int) -> int:
        return self.x[n]

    def set_gpr(self, n: int, value: int) -> None:
        if n:
            self.x[n] = value & (1 << 64) - 1

    def csr(self, number: int) -> int:
        return self.csrs.get(number, 0)

    def set_csr(self, number: int, value: int) -> None:
        self.csrs[number] = value

    def reset(self, *, pc: int, a0: int = 0, a1: int = 0, a2: int = 0, mode: int = 3) -> None:
        self.x = [0] * 32
        self.csrs = {0x301: MISA_GC}
        self.x[10:13] = [a0, a1, a2]
        self.pc = pc
        self.mode = mode
        self.mip = 0
        self.halted = False

    def halt(self) -> None:
        self.halted = True

    def flush_tlb(self) -> None:
        self.flushes += 1

    def translate(self, address: int) -> int | None:
        page = self.mapped.get(address >> 12)
        return None if page is None else page << 12 | address & 0xFFF

    def save(self) -> Any:
        return self

    def load(self, state: Any) -> None:
        self.loaded = state


class FakeExecutor:
    """Counts who lets the processor wait."""

    def __init__(self) -> None:
        self.holds = 0

    def hold(self) -> None:
        self.holds += 1

    def let_go(self) -> None:
        self.holds -= 1


class FakeMailboxes:
    """Mail of both kinds, kept until somebody carries it out: `run_loop`, `run_machine`."""

    def __init__(self) -> None:
        self.to_loop: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.to_machine: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def send(self, fn: Callable[..., object], *args: Any) -> None:
        self.to_loop.append((fn, args))

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        self.to_machine.append((fn, args))

    def run_loop(self) -> None:
        mail, self.to_loop = self.to_loop, []
        for fn, args in mail:
            fn(*args)

    def run_machine(self) -> None:
        mail, self.to_machine = self.to_machine, []
        for fn, args in mail:
            fn(*args)


class Vm:
    """What a device sees of the machine."""

    def __init__(self) -> None:
        self.time = Time()
        self.host_time = Time()
        self.clock = VirtualClock(self.time)
        self.clock.start()
        self.host_clock = HostClock(self.host_time)
        self.rtc_offset = 0
        self.memory = AddressSpace()
        self.dma = Dma(self.memory)
        self.executor = FakeExecutor()
        self.mailboxes = FakeMailboxes()
        self.vcpus: list[Any] = [FakeVcpu()]
        self.requests: list[tuple[Any, ...]] = []
        self.events: list[tuple[str, Any]] = []

    def emit(self, name: str, data: dict[str, Any] | None = None) -> None:
        self.events.append((name, data))

    def request_shutdown(self, cause: ShutdownCause, status: int = 0) -> None:
        self.requests.append(("shutdown", cause.value, status))

    def guest_panicked(self, status: int = 0) -> None:
        self.requests.append(("panic", status))

    def request_reset(self, cause: ShutdownCause) -> None:
        self.requests.append(("reset", cause.value))

    def watchdog_expired(self) -> None:
        self.requests.append(("watchdog",))

    def pass_time(self, ns: int) -> None:
        """Let that much time pass and timers fire."""
        self.time.ns += ns
        self.host_time.ns += ns
        self.host_clock.run_due()
        self.clock.run_due()


class Lines:
    """The other ends of interrupt lines: their levels."""

    def __init__(self) -> None:
        self.levels: dict[int, int] = {}

    def line(self, n: int) -> Irq:
        return Irq(self._set, n)

    def _set(self, n: int, level: int) -> None:
        self.levels[n] = level

    def __getitem__(self, n: int) -> int:
        return self.levels.get(n, 0)


def bring_up(device: Device, vm: Vm | None = None, *, reset: bool = True) -> tuple[Vm, Lines]:
    """Realize a device outside of any board, with its lines connected, and reset it."""
    vm = vm or Vm()
    lines = Lines()
    if isinstance(device, SysBusDevice):
        for index in range(len(device.irqs)):
            device.connect(index, lines.line(index))
    device.bring_up(vm)
    if reset:
        device.reset_enter()
        device.reset_hold()
        device.reset_exit()
    return vm, lines

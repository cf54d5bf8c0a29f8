"""Machines and types for the tests of this room: everything real but the machine thread, which is the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.types.hw_riscv import GoldfishRtcState
from qemud._generated.types.qdev import LoaderOptions
from qemud.machine.memory import AddressSpace
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.commands import QdevHandlers, QomHandlers
from qemud.qom.device import Bus, Device, SysBusDevice
from qemud.qom.machine import Machine
from qemud.qom.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable


class Mailboxes:
    """Calls that run at once, and are counted."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: Callable[[str], None] = lambda name: None

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        name = getattr(function, "__name__", "")
        self.calls.append(name)
        self.fail(name)
        return function(*arguments)


class Vm:
    def __init__(self) -> None:
        self.mailboxes = Mailboxes()
        self.memory = AddressSpace()
        self.vcpus: list[Any] = []


class Services:
    """A process with a machine of type `test-machine`, built."""

    startup = None  # it was made at once
    has_migration = False
    migration: Any = None

    def __init__(self) -> None:
        self.tree = Tree()
        self.vm = Vm()
        self.events: list[tuple[str, dict[str, Any] | None]] = []
        self.board = Board()
        self.tree.set_machine(self.board)
        self.board.bring_up(self.vm)
        self.qom = QomHandlers(self)
        self.qdev = QdevHandlers(self)

    def emit(self, name: str, data: dict[str, Any] | None) -> None:
        self.events.append((name, data))


class Recorder(Device):
    """Notes what happens to it in `log`, which all of one test share; fails where told."""

    log: list[str] = []  # noqa: RUF012 - shared on purpose
    failing: set[str] = set()  # noqa: RUF012 - shared on purpose

    def note(self, what: str) -> None:
        Recorder.log.append(f"{what} {self.name}")
        if what in Recorder.failing or f"{what} {self.name}" in Recorder.failing:
            raise GenericError(f"{what} failed")

    def realize(self) -> None:
        self.note("realize")

    def unrealize(self) -> None:
        self.note("unrealize")

    async def claim(self, services: Any) -> None:
        assert services.tree is self.root.root or services.tree is not None
        self.note("claim")

    async def settled(self) -> None:
        self.note("settled")

    async def give_up(self) -> None:
        self.note("give up")

    def reset_enter(self) -> None:
        self.note("enter")

    def reset_hold(self) -> None:
        self.note("hold")

    def reset_exit(self) -> None:
        self.note("exit")


class HotBus(Bus, type_name="test-bus"):
    hotpluggable = True
    capacity = 3


class ColdBus(Bus, type_name="test-cold-bus"):
    pass


class Hub(Recorder, type_name="test-hub", user_creatable=True):
    """A device with a bus that takes devices at any time and one that does not."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.hot = self.add_child("hot", HotBus("hot"))
        self.cold = self.add_child("cold", ColdBus("cold"))


class Plug(
    Recorder,
    type_name="test-plug",
    options=LoaderOptions,
    state=GoldfishRtcState,
    user_creatable=True,
    bus_type="test-bus",
):
    """A device that comes and goes; below it a part, and a backend that `file` names."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.add_child("part", Part())


class LinkedPlug(
    Plug,
    type_name="test-linked-plug",
    links={"file": "memory-backend"},
    user_creatable=True,
    bus_type="test-bus",
):
    """The same, with a property that names a memory backend."""


class SubHub(Recorder, type_name="test-sub-hub", user_creatable=True, bus_type="test-bus"):
    """A device that comes and goes and has a bus itself."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.below = self.add_child("below", HotBus("below"))


class ColdPlug(
    Recorder,
    type_name="test-cold-plug",
    user_creatable=True,
    hotpluggable=False,
    bus_type="test-cold-bus",
):
    """A device that only the command line may add."""


class WarmPlug(
    Recorder,
    type_name="test-warm-plug",
    user_creatable=True,
    bus_type="test-cold-bus",
):
    """A device that could come and go, for a bus that cannot take it."""


class Part(Recorder, type_name="test-part", state=GoldfishRtcState):
    """A part of another device."""

    state: GoldfishRtcState

    def check_state(self, state: Any) -> None:
        if state.alarm_running and state.alarm_next == 0:
            raise GenericError("an alarm that runs has a time")

    def after_load(self) -> None:
        self.note("loaded")


class Registers(SysBusDevice, type_name="test-registers", user_creatable=True):
    """A device with a page of registers."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.init_mmio("registers", 0x1000)
        self.init_irq(2)

    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, value: int, size: int) -> None:
        pass


class FreeRegisters(Registers, type_name="test-free-registers", user_creatable=True):
    """The same, for whoever wants them."""


class Board(Machine, type_name="test-machine"):
    """A hub, and registers at 0x1000."""

    dynamic_sysbus = frozenset(("test-free-registers",))

    def build(self) -> None:
        self.hub = self.add_child("hub", Hub())
        self.registers = self.add_child("registers", Registers())
        self.registers.map(0, 0x1000)

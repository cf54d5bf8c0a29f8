"""Which boards there are, as data: what `-machine help` and `query-machines` tell, and how one is made.

    board = find_board("virt")                      # by name or alias; None when there is none
    machine = make_machine(board, options)          # a `qemud.qom.machine.Machine`, nothing built yet
    machine.ram_size = 256 << 20
    machine.serials = [chardev]                     # one per serial port, None for a port with nothing behind it
    tree.set_machine(machine)
    machine.bring_up(vm)                            # machine thread; raises GenericError with one line on what is wrong
    machine.device_tree                             # the blob that the guest got, for `dumpdtb`

Before `bring_up`, `vm.vcpus` holds the board's processors, made by an accelerator (`cpus` of them).  `bring_up` maps memory and
registers and loads nothing; every `reset_tree(machine)` then puts kernel, firmware and device tree into memory and the processor to its
start.  `machine.ram` is the main memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qemud.hw.versions import NEWEST, VERSIONS, overlay_of
from qemud.qom.machine import Machine
from qemud.qom.properties import Provenance
from qemud.qom.types import types

if TYPE_CHECKING:
    import msgspec


class Board(NamedTuple):
    """What there is to be known of a board without making it."""

    name: str
    qom_type: str
    description: str
    alias: str | None = None
    is_default: bool = False
    max_cpus: int = 1
    default_cpu_type: str | None = None
    default_ram_id: str | None = None
    default_ram_size: int = 128 << 20
    serial_ports: int = 0


_FAMILIES = {name: family for family, name in NEWEST.items()}


def _virt(name: str) -> Board:
    newest = name in _FAMILIES
    return Board(
        name,
        f"{name}-machine",
        "RISC-V VirtIO board",
        alias=_FAMILIES.get(name),
        is_default=newest,
        default_cpu_type="rv64-riscv-cpu",
        default_ram_id="riscv_virt_board.ram",
        serial_ports=1,
    )


BOARDS = (
    Board("none", "none-machine", "empty machine", default_ram_id="ram"),
    *(_virt(name) for name in VERSIONS),
)

CPU_MODELS = ("max", "rv64")
"""What `-cpu` takes; the QOM type's name has `-riscv-cpu` behind."""


def find_board(name: str) -> Board | None:
    """The board of that name or alias.

    One that is asked for without a version is of the family's type, which is what clients of QEMU know it as.
    """
    for board in BOARDS:
        if name == board.alias:
            return board._replace(qom_type=f"{name}-machine")
        if name == board.name:
            return board
    return None


def default_board() -> Board:
    """The board that is meant when none is named."""
    return next(board for board in BOARDS if board.is_default)


def make_machine(
    board: Board, options: msgspec.Struct | None = None, *, creator: Provenance = Provenance.USER
) -> Machine:
    """The board as an object, see the module."""
    cls = types.find(board.qom_type)
    assert cls is not None
    assert issubclass(cls, Machine)
    machine = cls(options, creator=creator)
    machine.overlay = overlay_of(board.name)
    machine.version_type = f"{board.name}-machine"
    return machine

"""What a handler of commands is given: the parts of this process, by name.

The daemon makes one `Services` and fills it as it starts; each room's handlers take what they need from it.  Parts of higher
floors are typed by what this floor may know of them, and narrowed by the room that uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.vm import VirtualMachine
    from qemud.qapi.runtime.events import EmitFunction


class Services:
    """The parts of the process; see the module.

    `vm` is the machine, `tree` the composition tree, `chardevs` the character devices, `dispatcher` runs commands, `monitors` bring
    them, `board` is the built board (None until the machine is initialised), `startup` makes
    the machine phase by phase, `emit` sends an event to all clients, `events` is where it does, `request_quit` ends the process,
    `take_descriptor` takes the descriptor that the running command's client has named.
    """

    vm: VirtualMachine
    tree: Any
    chardevs: Any
    dispatcher: Any
    board: Any = None
    startup: Any = None
    emit: EmitFunction
    events: Any
    request_quit: Callable[[], None]
    monitors: Any
    take_descriptor: Callable[[str], int]
    target: str = "riscv64"
    name: str | None = None
    uuid: str = "00000000-0000-0000-0000-000000000000"

"""What a handler of commands is given: the parts of this process, by name.

The daemon makes one `Services` and fills it as it starts; each room's handlers take what they need from it.  Parts of higher
floors are typed by what this floor may know of them, and narrowed by the room that uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qemud.machine.vm import VirtualMachine
    from qemud.qapi.runtime.events import EmitFunction


class Services:
    """The parts of the process; see the module.

    `vm` is the machine, `tree` the composition tree, `chardevs` the character devices, `dispatcher` runs commands, `monitors` bring
    them one at a time by `turn`, `board` is the built board (None until the machine is initialised), `startup` makes
    the machine phase by phase, `emit` sends an event to all clients, `events` is where it does, `quit` ends the process,
    `take_descriptor` takes the descriptor that the running command's client has named.  `block` is the graph of block nodes, which
    `make_block` makes when it is first asked for: a process without disks has nothing of it.  The same goes for `net`, the network cards
    and backends, and for `migration`, machines that come and go.
    """

    vm: VirtualMachine
    tree: Any
    chardevs: Any
    dispatcher: Any
    board: Any = None
    make_block: Callable[[], Any]
    _block: Any = None
    make_net: Callable[[], Any]
    _net: Any = None
    make_migration: Callable[[], Any]
    _migration: Any = None
    startup: Any = None
    emit: EmitFunction
    events: Any
    quit: Callable[[], Coroutine[Any, Any, None]]
    monitors: Any
    turn: Any = None
    take_descriptor: Callable[[str], int]
    target: str = "riscv64"
    name: str | None = None
    uuid: str = "00000000-0000-0000-0000-000000000000"

    @property
    def block(self) -> Any:
        """The graph of block nodes."""
        if self._block is None:
            self._block = self.make_block()
        return self._block

    @property
    def has_block(self) -> bool:
        """Whether anything has been asked of `block` yet."""
        return self._block is not None

    @property
    def net(self) -> Any:
        """The network cards and backends."""
        if self._net is None:
            self._net = self.make_net()
        return self._net

    @property
    def has_net(self) -> bool:
        """Whether anything has been asked of `net` yet."""
        return self._net is not None

    @property
    def migration(self) -> Any:
        """Machines that come and go."""
        if self._migration is None:
            self._migration = self.make_migration()
        return self._migration

    @property
    def has_migration(self) -> bool:
        """Whether anything has been asked of `migration` yet."""
        return self._migration is not None

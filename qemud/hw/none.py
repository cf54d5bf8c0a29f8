"""The board `none`: nothing at all, for clients that ask what this program can do.

With a size of memory given (`-m`) there is RAM at address 0; there are no processors to see it.
"""

from __future__ import annotations

from qemud._generated.types.machine import MachineProperties
from qemud.machine.memory import RamBlock
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.machine import Machine


class NoneMachine(
    Machine,
    type_name="none-machine",
    options=MachineProperties,
    links={"memory-backend": "memory-backend"},
):
    """See the module."""

    options: MachineProperties
    ram_size = 0
    ram: RamBlock | None = None
    device_tree: bytes | None = None

    def build(self) -> None:
        """Map the memory, if any."""
        if self.options.kernel is not None:
            raise GenericError(
                "The -kernel parameter is not supported (use the generic 'loader' device instead)."
            )
        asked = self.options.memory.size if self.options.memory is not None else None
        backend = self.memory_backend("ram", asked)
        if backend is not None:
            self.ram = backend.take()
        elif self.ram_size:
            self.ram = RamBlock("ram", self.ram_size)
        if self.ram is not None:
            self.ram_size = self.ram.size
            self.machine.memory.add_ram("ram", 0, self.ram)

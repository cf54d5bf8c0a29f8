"""The making of the machine, phase by phase.

    assembly = Assembly(services, line, options, serials, add_device)
    await assembly.create()                         # there is a machine object, whose properties can be set; nothing runs
    await assembly.initialize()                     # the board with its processors and devices
    await assembly.finish()                         # the devices of the command line; everything is reset

A start without `-preconfig` goes through at once.  With it, clients are served after `create`: they add objects and character
devices, set properties of `/machine`, add devices, which initializes the machine if need be, and end it with
`x-exit-preconfig`.  What fails there is answered and undone, so that the client may put it right and try again.

Source of the phases: QEMU 10.0, hw/core/qdev.c (phase_advance) and system/vl.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.daemon.cmdline import UsageError
from qemud.daemon.machine import build_machine, check_options, create_machine
from qemud.logs import report
from qemud.machine.memory import AddressSpace
from qemud.machine.vm import NEEDS_RESET
from qemud.qapi.runtime.errors import GenericError, QmpError
from qemud.qapi.runtime.table import PHASES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qemud._generated.types.accel import TcgAccelOptions
    from qemud._generated.types.boards import MachineOptions
    from qemud._generated.types.options import CommandLine
    from qemud._generated.types.qdev import DeviceOptions
    from qemud.chardev.stream import Chardev
    from qemud.machine.services import Services
    from qemud.net.options import Legacy

_NO_MACHINE, _CREATED, _ACCELERATED, _INITIALIZED, _READY = PHASES


class Assembly:
    """See the module.  `add_device` makes one of the command line's devices; `busy` is true while the board is made."""

    def __init__(
        self,
        services: Services,
        line: CommandLine,
        options: MachineOptions,
        *,
        accel: TcgAccelOptions,
        serials: Sequence[Chardev | None],
        add_device: Callable[[str], Awaitable[None]],
        add_drives_device: Callable[[str, dict[str, str]], Awaitable[None]],
    ) -> None:
        self._services = services
        self.line = line
        self.options: Any = options
        self.accel = accel
        self.serials = serials
        self._add_device = add_device
        self._add_drives_device = add_drives_device
        self._devices = list(line.device or ())
        self.of_drives: list[tuple[str, dict[str, str]]] = []
        """Devices that belong to drives: what to put before an error, and the arguments of `device_add`."""
        self.legacy_networks: Legacy | None = None
        self.busy = False
        self.phase = _NO_MACHINE

    @property
    def phase(self) -> str:
        """How far it is, one of `qemud.qapi.runtime.table.PHASES`."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._phase = self._services.dispatcher.phase = phase

    async def create(self) -> None:
        """Put a machine into the tree, with its properties, and choose the engine.  Raises UsageError or GenericError."""
        self._machine = create_machine(self._services, self.options)
        self.phase = _CREATED
        # The engine was chosen when the command line was read: there is one.
        self.phase = _ACCELERATED

    async def initialize(self) -> None:
        """Make the board; nothing happens when it is there.  Raises UsageError or GenericError, and undoes what was made."""
        if self.phase != _ACCELERATED:
            return
        services, machine = self._services, self._machine
        self.busy = True
        try:
            check_options(machine.options)
            await build_machine(
                services, machine, self.options.type.value, self.line, accel=self.accel, serials=self.serials
            )
        except Exception:
            # Not when the process is told to end meanwhile: the machine thread may never answer then.
            await services.vm.mailboxes.call(self._scrap)
            if machine.default_memory is not None:
                machine.default_memory.unparent()
                machine.default_memory.close()
            services.tree.root.abandon("machine")
            self._machine = create_machine(services, self.options, machine.options)
            raise
        finally:
            self.busy = False
        self.phase = _INITIALIZED

    async def finish(self) -> None:
        """Make the devices of the command line, reset everything, and start the guest unless `-S` holds it.  Raises UsageError or GenericError."""
        await self.initialize()
        while self._devices:
            await self._add_device(self._devices[0])
            del self._devices[0]
        while self.of_drives:
            await self._add_drives_device(*self.of_drives[0])
            del self.of_drives[0]
        if self._services.has_block:
            from qemud.daemon.disks import check_orphans

            check_orphans(self._services.block)
        if self._services.has_net:
            from qemud.daemon.networks import warn_of

            warn_of(self._services.net, self.legacy_networks)
        if self.line.global_:
            from qemud.daemon.parts import warn_of_globals

            warn_of_globals(self.line.global_)
        vm = self._services.vm
        await vm.mailboxes.call(vm.reset_devices)
        self.phase = _READY
        if self.line.loadvm is not None:
            from qemud.migration.whole import load

            await load(self._services, self.line.loadvm)
        if self.line.incoming is not None:
            from qemud.daemon.incoming import begin

            await begin(self._services, self.line)
        elif not self.line.S and vm.state not in NEEDS_RESET:
            try:
                await vm.cont()
            except GenericError as error:
                # It may still be continued when who has its disks has given them up.
                report(str(error))

    def waiting_devices(self) -> list[DeviceOptions]:
        """The devices of the command line that are still to be made.  GenericError: they cannot be."""
        if not self._devices and not self.of_drives:
            return []
        from qemud.daemon.parts import device_options, options_of_drives_device

        try:
            return [
                *map(device_options, self._devices),
                *(options_of_drives_device(arguments) for _, arguments in self.of_drives),
            ]
        except UsageError as error:
            raise GenericError(str(error).replace("\n", "; ")) from None

    # As clients ask for it.

    @property
    def ready(self) -> bool:
        """Whether the machine is complete, and a device that is added now is plugged in while it runs."""
        return self.phase == _READY

    async def before_device(self) -> None:
        """See to it that there is something to plug a device into.  Raises GenericError."""
        await self._answered(self.initialize())

    async def exit_preconfig(self) -> None:
        """The rest of the start.  Raises GenericError."""
        await self._answered(self.finish())

    async def _answered(self, step: Awaitable[None]) -> None:
        try:
            await step
        except QmpError:
            raise
        except UsageError as error:
            raise GenericError(str(error).replace("\n", "; ")) from None

    def _scrap(self) -> None:
        """Throw away what a failed board has left; on the machine thread."""
        vm, backend = self._services.vm, self._machine.link("memory-backend")
        if backend is not None and backend.in_machine:
            backend.give_back()
        vm.executor.detach()
        vm.vcpus.clear()
        vm.on_powerdown.clear()
        vm.memory = AddressSpace()

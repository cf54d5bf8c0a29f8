"""From a command line to a running machine, and back to nothing.

    status = await serve(line, "riscv64", daemonizer)

The order of the phases is QEMU's: objects and character devices, monitors, the machine, devices; then everything listens, the
service manager and the waiting parent process are told, and the guest starts unless `-S` holds it.

- `Daemon.open` makes what the world sees.  A client may connect as soon as its socket listens and is greeted at once; its
  commands wait until the machine is ready.  This phase is short, and imports nothing that a greeting does not need.
- `Daemon.build` makes the machine, and imports what that takes: the object model, the machine thread, a board, the engine.

What fails on the way is undone in the reverse order.
"""

from __future__ import annotations

import asyncio
import gc
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from qemud._generated.table import COMMANDS
from qemud.chardev.registry import Chardevs
from qemud.daemon import signals
from qemud.daemon.cmdline import UsageError, at, warner
from qemud.daemon.handlers import HANDLERS
from qemud.daemon.systemd import Notifier, passed_sockets, watchdog_interval
from qemud.logs import Logger, report
from qemud.machine.services import Services
from qemud.monitor.dispatch import Dispatcher
from qemud.monitor.qmp.events import Events
from qemud.monitor.qmp.server import Turn
from qemud.monitor.registry import Monitors
from qemud.qapi.runtime.check import checker, use_target
from qemud.qapi.runtime.errors import GenericError, QmpError
from qemud.qapi.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from qemud._generated.types.accel import TcgAccelOptions
    from qemud._generated.types.boards import MachineOptions
    from qemud._generated.types.options import CommandLine
    from qemud.chardev.stream import Chardev
    from qemud.daemon.process import Daemonizer
    from qemud.machine.vm import VirtualMachine
    from qemud.qom.tree import Tree

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds from a client's `quit` or a signal to the end, if the machine does not stop before."""

log = Logger("daemon")


async def serve(line: CommandLine, target: str, daemonizer: Daemonizer) -> int:
    """Build what the command line asks for, run it to its end; the result is the exit status.

    Raises UsageError or QmpError when it cannot be built; nothing is left behind then.
    """
    daemon = Daemon(line, target)
    try:
        # Opening may have to wait for a client, as long as it takes; a signal ends that.  And while the loop turns here, clients
        # that have connected already are greeted, before the machine's parts are imported.
        opened = await daemon.unless_ended(daemon.open())
        # Building may have to wait as well, for a kernel that somebody writes into a pipe.
        if opened is None or await daemon.unless_ended(daemon.build(opened)) is None:
            return daemon.ended.result()
        # What there is now stays: later searches for garbage pass it by, and guests wait for them that much less.
        gc.freeze()
        gc.enable()
        daemonizer.ready()
        daemon.announce()
        return await daemon.ended
    finally:
        await daemon.close()


_PATIENCE = 10
"""Seconds that the end of the process waits for a machine that may hang."""


class Opened:
    """What the first phase hands to the second: the options of machine and engine, the serial ports' character devices in order."""

    def __init__(
        self, options: MachineOptions, accel: TcgAccelOptions, serials: list[Chardev | None]
    ) -> None:
        self.options = options
        self.accel = accel
        self.serials = serials


class Daemon:
    """All parts of one process, and who undoes them."""

    def __init__(self, line: CommandLine, target: str) -> None:
        self.line = line
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self.loop.create_future()
        self.notifier = Notifier()
        self._passed = passed_sockets()
        self._object_ids: set[str] = set()  # of objects in the syntax that knows of duplicates
        self._undo: list[Callable[[], object] | Callable[[], Coroutine[Any, Any, object]]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        use_target(target)

        self.vm: VirtualMachine | None = None
        self._built = self._signalled = False
        self.board = ""  # which one, by the name that was asked for
        self.events = Events(self.loop.call_later)
        self.chardevs = Chardevs(
            report=report,
            end=self._quit,
            resolve_fd=self._find_fd,
            daemonized=bool(line.daemonize),
            objects=lambda: self.tree.objects.children,
        )
        services = self.services = Services()
        services.chardevs = self.chardevs
        services.emit = self.events.emit
        services.events = self.events
        services.target = target
        services.quit = self._quit_and_tell
        services.take_descriptor = _take_descriptor
        services.make_block = self._make_block
        services.make_net = self._make_net
        services.make_migration = self._make_migration
        services.name = line.name.guest if line.name else None
        services.uuid = line.uuid or services.uuid
        self.dispatcher = services.dispatcher = Dispatcher(
            COMMANDS, HANDLERS, services, defined=TARGETS[target]
        )
        if line.compat:
            from qemud.daemon.compat import policy_of

            policy = policy_of(line.compat)
            checker.use_policy(policy)
            self.dispatcher.policy = self.events.policy = policy
        self._turn = services.turn = Turn()
        self._turn.taken = True  # until the machine is ready; released by `build`
        self.monitors = services.monitors = Monitors(self.dispatcher.execute, self.events, self._turn)

    @cached_property
    def tree(self) -> Tree:
        """The composition tree, once something is to be put into it."""
        from qemud.chardev.objects import tree_hooks
        from qemud.hw.versions import overlay_of
        from qemud.qom.tree import Tree

        tree = self.services.tree = Tree()
        tree.root.globals += [
            (given.driver, given.property, given.value) for given in self.line.global_ or ()
        ]
        tree.root.overlay = overlay_of(self.board)
        tree.root.services = self.services
        self.chardevs.watch(*tree_hooks(tree))
        return tree

    # The phases.

    async def open(self) -> Opened:
        """Make what can be seen from outside: character devices and the monitors on them."""
        from qemud.daemon.accelerator import choose_accelerator
        from qemud.daemon.machine import machine_options

        line = self.line
        if line.loadvm is not None and line.preconfig:
            raise UsageError("'preconfig' and 'loadvm' options are mutually exclusive")
        if line.incoming is not None:
            from qemud.daemon.incoming import check

            check(line)
        if line.pidfile is not None:
            from qemud.daemon.process import PidFile

            self._undo.append(PidFile(line.pidfile).remove)
        signals.watch(self.loop, self._on_signal)
        self._undo += [self.chardevs.close_all, self.monitors.close_all]
        options = machine_options(line)
        accel = choose_accelerator(line, options.accel)
        self.board = options.type.value
        await self._add_objects(line.object or (), late=False)
        for text in line.chardev or ():
            with at("chardev", text):
                await self._add_chardev(text)
        await self._open_monitors()
        return Opened(options, accel, await self._open_serials())

    async def build(self, opened: Opened) -> VirtualMachine:
        """Make the machine, start the guest unless `-S` holds it."""
        from qemud._generated.types.run_state import RunState
        from qemud.daemon.assembly import Assembly
        from qemud.daemon.machine import set_actions
        from qemud.daemon.parts import add_device, add_drives_device
        from qemud.machine.thread import MachineThread
        from qemud.machine.vm import VirtualMachine

        line, self.services.tree = self.line, self.tree  # which no object has needed yet, perhaps
        thread = MachineThread(debug=bool(os.environ.get("QEMUD_DEBUG")))
        vm = self.vm = self.services.vm = VirtualMachine(thread, self.events.emit, self._end)
        set_actions(vm.actions, line)
        vm.autostart = not line.S
        if line.incoming is not None:
            vm.state = RunState.INMIGRATE
        thread.on_failure = lambda _reason: vm.internal_error()
        thread.start()
        self._undo.append(thread.end)
        for clock in (vm.clock, vm.host_clock):
            await vm.mailboxes.call(thread.attach_clock, clock)
        assembly = self.services.startup = Assembly(
            self.services,
            line,
            opened.options,
            accel=opened.accel,
            serials=opened.serials,
            add_device=lambda text: add_device(self.services, text),
            add_drives_device=lambda place, arguments: add_drives_device(self.services, place, arguments),
        )
        from qemud.daemon import disks

        if disks.wanted(line):
            assembly.of_drives = await disks.open_disks(self.services.block, line)
        if line.netdev or line.nic or line.net:
            from qemud.daemon.networks import open_networks

            assembly.legacy_networks = await open_networks(self.services.net, line)
        await self._add_objects(line.object or (), late=True)
        self._undo.append(self._settle)
        await assembly.create()
        if not line.preconfig:
            await assembly.finish()
        self._turn.release(lambda: None)
        self._built = True
        return vm

    async def unless_ended(self, phase: Coroutine[Any, Any, T]) -> T | None:
        """The result of a phase, or None when the daemon is to end before that."""
        task = self.loop.create_task(phase)
        await asyncio.wait((task, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    def announce(self) -> None:
        """Everything listens: tell the service manager, and keep its watchdog quiet from now on."""
        vm = self.vm
        assert vm is not None
        self.notifier.send("READY=1", f"STATUS={vm.state.value}")
        vm.on_state = lambda state: self.notifier.send(f"STATUS={state.value}")
        interval = watchdog_interval()
        if interval is not None:
            self._spawn(self._feed_watchdog(vm, interval))

    async def close(self) -> None:
        """Undo everything, the last first."""
        self.notifier.send("STOPPING=1")
        for task in self._tasks:
            task.cancel()
        if self.services.has_migration:
            self._undo.append(self.services.migration.close)
        while self._undo:
            undo = self._undo.pop()
            try:
                waits = undo()
                if asyncio.iscoroutine(waits):
                    await waits
            except Exception as error:  # noqa: BLE001  what else there is must be undone all the same
                log.warning("could not clean up", error=str(error) or type(error).__name__)

    async def _settle(self) -> None:
        """What the board has not written yet is written."""
        board = self.services.board
        if board is not None:
            async with asyncio.timeout(_PATIENCE):
                await board.settled()

    # Its parts.

    async def _add_chardev(self, text: str) -> None:
        if not text.startswith("{"):
            await self.chardevs.open_options(text, warner("chardev", text))
            return
        from qemud.monitor.qmp.framing import parse_option
        from qemud.qapi.runtime.check import parse_arguments

        arguments = parse_arguments("chardev-add", parse_option(text))
        await self.chardevs.add(arguments["id"], arguments["backend"])

    async def _add_objects(self, texts: Iterable[str], *, late: bool) -> None:
        """Make the objects of the command line; `late` ones stand in the way of networks, which must be there."""
        for text in texts:
            if ("filter-" in text) is late:
                from qemud.daemon.parts import add_object

                await add_object(self.tree, text, self._object_ids)

    async def _open_monitors(self) -> None:
        count = 0
        for option, pretty in (("qmp", False), ("qmp-pretty", True)):
            for text in getattr(self.line, option.replace("-", "_")) or ():
                with at(option, text):
                    chardev = await self.chardevs.open_compact(f"compat_monitor{count}", text)
                    self.monitors.add(chardev.label, chardev, pretty=pretty)
                count += 1
        for text in self._human_monitors():
            with at("monitor", text):
                chardev = await self.chardevs.open_compact(f"compat_monitor{count}", text)
                self._add_human_monitor(chardev.label, chardev)
            count += 1
        for given in self.line.mon or ():
            with at("mon", f"chardev={given.chardev}"):
                found = self.chardevs.get(given.chardev)
                if found is None:
                    raise GenericError(f'chardev "{given.chardev}" not found')
                if given.mode is not None and given.mode.value == "control":
                    self.monitors.add(given.id, found, pretty=bool(given.pretty))
                elif given.pretty:
                    raise GenericError("'pretty' is not compatible with HMP monitors")
                else:
                    self._add_human_monitor(given.id, found)

    def _human_monitors(self) -> list[str]:
        """What `-monitor` names; by default the terminal with -nographic, where no serial port is to share it."""
        line = self.line
        if line.monitor is not None:
            return [text for text in line.monitor if text != "none"]
        if not line.nographic or line.nodefaults or line.serial is None or self._stdio_is_taken():
            return []
        return [] if line.qmp or line.qmp_pretty or line.mon else ["stdio"]

    def _add_human_monitor(self, label: str | None, chardev: Chardev) -> None:
        from qemud.monitor.hmp.terminal import HumanMonitor

        monitor = HumanMonitor(chardev.attach(), self.dispatcher.execute_for_people, self._turn)
        self.monitors.adopt(label, "readline", chardev.label, monitor.close)

    def _stdio_is_taken(self) -> bool:
        """Whether an option names the terminal."""
        line = self.line
        options = (line.qmp, line.qmp_pretty, line.monitor, line.chardev, line.serial)
        named = [text.split(",")[0].removeprefix("mon:") for texts in options for text in texts or ()]
        return "stdio" in named

    async def _open_serials(self) -> list[Chardev | None]:
        """The character devices of the serial ports, in order; None for a port that is not wanted."""
        texts = self.line.serial
        if texts is None:
            texts = self._default_serials()
        serials: list[Chardev | None] = []
        for index, text in enumerate(texts):
            if text == "none":
                serials.append(None)
                continue
            try:
                with at("serial", text):
                    chardev = await self.chardevs.open_compact(f"serial{index}", text, mux_monitor=True)
                    if text.startswith("mon:"):
                        self._add_human_monitor(None, chardev)
                    serials.append(chardev)
            except UsageError as error:
                reason = "" if text.startswith("chardev:") else f"{error}\n"
                raise UsageError(
                    f"{reason}-serial {text}: could not connect serial device to character backend '{text}'"
                ) from None
        return serials

    def _default_serials(self) -> list[str]:
        """The terminal, where nothing else wants it; there are no graphical consoles that QEMU's default would be on."""
        line = self.line
        if line.nodefaults:
            return []
        if line.nographic and line.daemonize:
            raise UsageError("-nographic cannot be used with -daemonize")
        if not self._stdio_is_taken() and (line.nographic or not (line.display or line.daemonize)):
            return ["mon:stdio" if line.monitor is None else "stdio"]
        return ["null"]

    def _make_block(self) -> Any:
        """The graph of block nodes, which is closed before the machine thread ends."""
        from qemud.block.graph import Graph

        graph = Graph(self.events.emit)
        graph.kind_of = self._kind_of
        graph.objects = lambda: self.tree.objects.children
        graph.incoming = self.services.vm.state.value == "inmigrate"
        self._undo.append(graph.close)
        self.services.vm.before_cont.append(graph.activate_all)
        return graph

    def _make_net(self) -> Any:
        """The network cards and backends, which are closed before the machine thread ends."""
        from qemud.net.registry import Networks

        networks = Networks(self.events.emit, self.chardevs, self._find_fd, report)
        self._undo.append(networks.close)
        return networks

    def _make_migration(self) -> Any:
        """Machines that come and go."""
        from qemud.migration.service import Migration

        return Migration(self.services, report, self._find_fd)

    def _kind_of(self, name: str) -> str:
        """What the machine has by that id or path: `device`, `object` or nothing."""
        from qemud.qom.device import Device

        try:
            found = self.tree.find(name if name.startswith("/") else f"/machine/peripheral/{name}")
        except QmpError:  # more than one
            return ""
        return "device" if isinstance(found, Device) else "object" if found is not None else ""

    def _find_fd(self, name: str) -> int:
        """A descriptor by its number or by the name that socket activation gave it."""
        from qemud.chardev.address import inherited_fd

        passed = self._passed.get(name)
        return inherited_fd(name) if passed is None else passed

    # Its end.

    def _end(self, status: int) -> None:
        self._turn.close()
        if not self.ended.done():
            self.ended.set_result(status)

    def _quit(self) -> None:
        self._shut_down("host-qmp-quit")

    async def _quit_and_tell(self) -> None:
        """End the process; everybody has been told when this returns."""
        from qemud._generated.types.run_state import ShutdownCause

        if self._can_shut_down():
            assert self.vm is not None
            await self.vm.shutdown(ShutdownCause.HOST_QMP_QUIT)

    def _on_signal(self, number: int, pid: int) -> None:
        # timeout(1) and terminals signal the process and its group: one message is enough.
        if not self._signalled:
            self._signalled = True
            report(signals.describe(number, pid))
        self._shut_down("host-signal")

    def _shut_down(self, cause: str) -> None:
        from qemud._generated.types.run_state import ShutdownCause

        if self._can_shut_down():
            assert self.vm is not None
            self.vm.request_shutdown(ShutdownCause(cause))

    def _can_shut_down(self) -> bool:
        """Whether the machine can be asked, and clients be told; when not, the end is near already."""
        if self.vm is None or not self._built or self.services.startup.busy:
            self._end(0)
            return False
        # A machine thread that hangs would never say that it has stopped.
        self.loop.call_later(PATIENCE, self._end, 0)
        return True

    # The service manager.

    async def _feed_watchdog(self, vm: VirtualMachine, interval: float) -> None:
        """Give signs of life: from this loop, and only while the machine thread answers."""
        while True:
            await vm.mailboxes.call(lambda: None)
            self.notifier.send("WATCHDOG=1")
            await asyncio.sleep(interval)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _take_descriptor(name: str) -> int:
    """The descriptor that the running command's client has named. Raises GenericError."""
    from qemud.monitor.descriptors import take_named

    return take_named(name)

"""From the name of a command to its result: the command table, the input check, the handler, the encoding.

    dispatcher = Dispatcher(COMMANDS, HANDLERS, services, defined=TARGETS["riscv64"])
    reply = await dispatcher.execute("query-status", {})      # b'{"running":false,…}'

Handlers are classes named by schema module (`"package.module:Class"`), imported and made when their first command runs.
They are coroutines, but most have nothing to wait for: whoever runs `execute` may step it once with `send(None)` and
make a task only if it did not end with that (`qemud.monitor.qmp.server` does).  So a handler must not, before its first
`await` that really waits, use what belongs to a task: `asyncio.timeout`, `asyncio.TaskGroup`, `asyncio.current_task`.
One that needs them says `await asyncio.sleep(0)` first.

What a handler may raise: `QmpError`, which the client reads.  Anything else is a defect; it is logged with its traceback
and answered by a plain GenericError.

Source: QEMU 10.0, qapi/qmp-dispatch.c and system/qdev-monitor.c (order of checks, texts).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from qemud.logs import Logger, trace, traced
from qemud.monitor.qmp.envelope import ascii_json
from qemud.qapi.runtime.check import parse_arguments
from qemud.qapi.runtime.errors import CommandNotFound, GenericError, QmpError
from qemud.qapi.runtime.table import LATE, READY, CommandInfo, holds
from qemud.qapi.runtime.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Protocol

    from qemud.qapi.runtime.policy import Policy

    class Execute(Protocol):
        """What a monitor needs of a dispatcher."""

        def __call__(
            self, name: str, arguments: dict[str, Any], *, oob: bool = False
        ) -> Coroutine[Any, Any, bytes | None]:
            """Run a command; its result as ASCII JSON text, or None when success is not answered.  Raises QmpError."""


log = Logger("monitor")

MARKS = ("deprecated", "unstable")
"""What a policy can be about, as in `qemud.qapi.runtime.shapes`, which a start does not need."""

EMPTY = b"{}"
"""The result of a command that returns nothing."""


class Dispatcher:
    """Runs commands by name.

    `table` is the generated command table, `handlers` maps schema modules to handler classes, `services` is what they
    are made with, `defined` holds the names that the table's conditions find defined.  `phase` says how far the machine
    has been made; only commands that may run in that phase do.
    """

    def __init__(
        self,
        table: Mapping[str, CommandInfo],
        handlers: Mapping[str, str],
        services: object,
        *,
        defined: frozenset[str] = frozenset(),
    ) -> None:
        self._table = {name: info for name, info in table.items() if holds(info.condition, defined)}
        self._handlers = handlers
        self._services = services
        self._made: dict[str, object] = {}  # handlers by schema module
        self._methods: dict[str, tuple[CommandInfo, Callable[..., Coroutine[Any, Any, Any]]]] = {}
        self._phase = READY
        self.policy: Policy | None = None
        """What to do with commands that are deprecated or unstable, and with such members of results."""

    @property
    def phase(self) -> str:
        """How far the machine has been made, one of `qemud.qapi.runtime.table.PHASES`."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._phase = phase
        self._methods.clear()  # found anew, each with a look at the phase

    @property
    def names(self) -> list[str]:
        """The names of all commands, sorted."""
        return sorted(self._table)

    def execute(
        self, name: str, arguments: dict[str, Any], *, oob: bool = False
    ) -> Coroutine[Any, Any, bytes | None]:
        """Run a command; its result as ASCII JSON text, or None when success is not answered.

        Raises QmpError: there is no such command, it cannot run so or now, `arguments` are not its arguments, or what
        its handler says.
        """
        return self._execute(name, arguments, oob, self.policy)

    def execute_for_people(
        self, name: str, arguments: dict[str, Any], *, oob: bool = False
    ) -> Coroutine[Any, Any, bytes | None]:
        """As `execute`, for the human monitor: policies are for those who test programs, and nothing is kept from people."""
        return self._execute(name, arguments, oob, None)

    async def _execute(
        self, name: str, arguments: dict[str, Any], oob: bool, policy: Policy | None
    ) -> bytes | None:
        if "handle_qmp_command" in traced:
            trace("handle_qmp_command", command=name)
        try:
            if policy is not None and (known := self._table.get(name)) is not None:
                marks = [mark for mark in MARKS if getattr(known, mark)]
                policy.check_input(marks, "command", name, CommandNotFound)
            info, method = self._methods.get(name) or self._find(name)
            if oob:
                self._check_oob(info)
            if not arguments and not info.has_arguments:
                result = await method()
            elif info.boxed and info.gen:
                result = await method(parse_arguments(name, arguments))
            else:
                result = await method(**parse_arguments(name, arguments))
            if not info.success_response:
                return None
            if result is None:
                return EMPTY
            if policy is not None:
                result = self._shown(policy, name, result)
            data = bytes(result) if isinstance(result, Raw) else encode(result)
            return data if data.isascii() else ascii_json(data)
        except QmpError:
            raise
        except Exception as error:
            log.exception("command handler failed", command=name)
            raise GenericError(f"Internal error in command '{name}': {type(error).__name__}") from error

    @staticmethod
    def _shown(policy: Policy, name: str, result: Any) -> Any:
        """What the policy lets pass of a result."""
        from qemud._generated.results import RETURNS
        from qemud.qapi.runtime.check import checker, to_wire

        if isinstance(result, Raw) or name not in RETURNS:
            return result
        return policy.shown(checker, RETURNS[name], to_wire(result))

    def _check_oob(self, info: CommandInfo) -> None:
        """Refuse a command that cannot run out of band."""
        if not info.allow_oob:
            raise GenericError(f"The command {info.name} does not support OOB")

    def _check_phase(self, info: CommandInfo) -> None:
        """Refuse a command that cannot run yet, or no longer."""
        if self._phase in info.phases:
            return
        if info.phases == LATE:
            raise GenericError(
                f"The command '{info.name}' is permitted only after machine initialization has completed"
            )
        if self._phase == READY:
            raise GenericError("The command is permitted only before machine initialization")
        raise GenericError(
            f"The command '{info.name}' is permitted only in the phases {', '.join(info.phases)}; "
            f"this one is {self._phase}"
        )

    def _find(self, name: str) -> tuple[CommandInfo, Callable[..., Coroutine[Any, Any, Any]]]:
        """The table's row and the handler's method for a command that runs for the first time."""
        info = self._table.get(name)
        if info is None:
            raise CommandNotFound(f"The command {name} has not been found")
        self._check_phase(info)
        handler = self._made.get(info.module)
        if handler is None:
            module, _, class_name = self._handlers[info.module].partition(":")
            handler = self._made[info.module] = getattr(import_module(module), class_name)(self._services)
        found = self._methods[name] = (info, getattr(handler, info.method))
        return found

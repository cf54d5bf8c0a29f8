"""A monitor without a terminal: runs lines, keeps what one line leaves for the next.

    shell = Shell(dispatcher.execute)
    await shell.run("print 1+2*3")       # 0x7, on a line

A line never fails: what is wrong with it is in its output.  Commands are functions of a shell and their arguments; they ask and act
by `qmp` and write with `print`.

Source: QEMU 10.0, monitor/hmp.c, for texts and layout.
"""

from __future__ import annotations

from base64 import b64decode
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from qemud.logs import Logger
from qemud.monitor.hmp.arguments import ArgumentError, Reading, parse
from qemud.monitor.hmp.expression import SPACE
from qemud.monitor.hmp.table import COMMANDS, SUBCOMMANDS
from qemud.qapi.runtime.errors import GenericError, QmpError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from qemud.monitor.dispatch import Execute
    from qemud.monitor.hmp.table import Command

    Run = Callable[["Shell", dict[str, Any]], Awaitable[None]]

log = Logger("monitor")


class Shell:
    """One monitor's state; see the module.

    `execute` runs QMP commands; `reading` is shared by monitors that are to share the format last given.  `history` gives the lines
    typed before; None where nobody types.  `ended` is set by `quit`.  `lasts` is set by a line that has begun something which whoever
    typed it waits for, while other monitors go on; only where somebody types.
    """

    def __init__(
        self,
        execute: Execute,
        *,
        reading: Reading | None = None,
        cpu_index: int | None = None,
        history: Callable[[], list[str]] | None = None,
    ) -> None:
        self._execute = execute
        self.reading = reading or Reading()
        self.cpu_index = cpu_index
        self.history = history
        self.ended = False
        self.lasts: Callable[[], Awaitable[None]] | None = None
        self._output: list[str] = []

    async def qmp(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Execute a QMP command; what it returns.  Raises QmpError."""
        reply = await self._execute(command, dict(arguments or {}))
        return msgspec.json.decode(reply) if reply is not None else None

    def print(self, text: str) -> None:
        """Write text; lines end in LF."""
        self._output.append(text)

    async def run(self, line: str) -> str:
        """Run a line; what it prints."""
        try:
            await self._run(line)
        except ArgumentError as error:
            self.print(f"{error}\n" if str(error) else "")
        except QmpError as error:
            self.print(f"Error: {error}\n")
        except Exception as error:
            log.exception("human monitor command failed", line=line)
            self.print(f"Error: Internal error: {type(error).__name__}\n")
        output = "".join(self._output)
        self._output.clear()
        return output

    async def phase(self) -> str:
        """How far the machine has been made."""
        phase: str = (await self.qmp("query-machine-phase"))["phase"]
        return phase

    async def _run(self, line: str) -> None:
        found = find(line, await self.phase())
        if found is None:
            return
        command, position = found
        self.reading.warn = lambda text: self.print(f"warning: {text}\n")
        if "$" in line:
            self.reading.registers = await self._registers()
        try:
            arguments = parse(command.arguments, line[position:], command.title, self.reading)
        except ArgumentError as error:
            text = f"{error}\n" if str(error) else ""
            raise ArgumentError(
                f'{text}Try "help {line[:position].rstrip(SPACE)}" for more information'
            ) from None
        finally:
            self.reading.registers = {}
        await function(command)(self, arguments)

    async def _registers(self) -> dict[str, int]:
        """The registers that an expression may name; none where there is no processor."""
        try:
            reply = await self.qmp("x-query-registers", await self.cpu())
        except GenericError:
            return {}
        return {
            name: register["value"] for register in reply["registers"] for name in register["name"].split("/")
        }

    async def cpu(self) -> dict[str, int]:
        """The processor that commands are about, as an argument of QMP commands; the first unless `cpu` chose."""
        return {"cpu-index": self.cpu_index or 0}

    async def read_memory(self, address: int, size: int, where: dict[str, int]) -> bytes:
        """Memory as the processor `where` sees it, physical if it is empty; up to the first byte that cannot be read."""
        reply = await self.qmp("x-read-memory", {"address": address, "size": size, **where})
        return b64decode(reply["data"])


def find(line: str, phase: str) -> tuple[Command, int] | None:
    """The command that a line names, and where its arguments begin; None in an empty line.

    Raises ArgumentError: there is none of that name, or it may not be used in this `phase`.
    """
    table = COMMANDS
    position = _skip_space(line, 0)
    if position == len(line):
        return None
    while True:
        end = position
        while end < len(line) and line[end] not in SPACE and line[end] != "/":
            end += 1
        command = table.get(line[position:end])
        if command is None:
            raise ArgumentError(f"unknown command: '{line[:end]}'")
        if not command.is_available(phase):
            raise ArgumentError(
                f"Command '{line[:end]}' not available until machine initialization has completed."
            )
        position = _skip_space(line, end)
        below = SUBCOMMANDS.get(command.name) if table is COMMANDS else None
        if below is None or position == len(line):
            return command, position
        table = below


def function(command: Command) -> Run:
    """What does a command."""
    module, _, name = command.run.partition(":")
    found: Run = getattr(import_module(f"qemud.monitor.hmp.{module}"), name)
    return found


def _skip_space(line: str, position: int) -> int:
    while position < len(line) and line[position] in SPACE:
        position += 1
    return position

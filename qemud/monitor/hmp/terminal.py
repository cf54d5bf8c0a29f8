"""The human monitor on a character device: prompt, keys, output.

    monitor = HumanMonitor(chardev.attach(), dispatcher.execute, turn)
    ...
    monitor.close()

One line runs at a time, in the turn that all monitors share (`qemud.monitor.qmp.server.Turn`); meanwhile the character device
brings no keys.  The greeting waits for its turn, too, and so for a machine that is still being made: on a terminal that the
monitor shares with a serial port, the port has the focus by then, and the greeting comes with the first Ctrl-A c.  What is
written while another user has the focus waits for it to come back.

Source: QEMU 10.0, monitor/hmp.c and monitor/monitor.c, for the greeting and the effects of the focus.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from functools import cached_property
from typing import TYPE_CHECKING

from qemud.chardev.stream import ChardevEvent
from qemud.monitor.hmp.editor import CompletionWanted, Entered, LineEditor
from qemud.monitor.passed import PassedDescriptors, current
from qemud.monitor.version import QEMU_VERSION

if TYPE_CHECKING:
    from qemud.chardev.stream import Port
    from qemud.monitor.dispatch import Execute
    from qemud.monitor.hmp.shell import Shell
    from qemud.monitor.qmp.server import Turn

PROMPT = "(qemu) "
BURST = 1024
"""Keys that are taken before others get their turn."""
GREETING = f"QEMU {'.'.join(map(str, QEMU_VERSION))} monitor - type 'help' for more information\n"


class HumanMonitor:
    """One human monitor; see the module."""

    def __init__(self, port: Port, execute: Execute, turn: Turn) -> None:
        self._port = port
        self._execute = execute
        self._turn = turn
        self._editor = LineEditor(PROMPT)
        self._keys = bytearray()
        self._asked: Entered | CompletionWanted | None = None  # what waits for its turn, or runs
        self._client = 0  # how many have left
        self._running_for: int | None = None  # for which of them a line runs
        self._ended = False
        self._greet = False
        self._greeted = False
        self._has_focus = True
        self._held_back: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._passed = PassedDescriptors(expected=lambda: bool(self._keys) or self._asked is not None)
        self._context = copy_context()
        self._context.run(current.set, self._passed)
        port.start(self._receive, self._on_event, answers=True)

    @cached_property
    def _shell(self) -> Shell:
        """What runs the lines; imported with the first one."""
        from qemud.monitor.hmp.shell import Shell

        return Shell(self._execute, history=lambda: list(self._editor.history))

    def close(self) -> None:
        """Leave the character device; a command that runs is cancelled."""
        if self._task is not None:
            self._task.cancel()
        self._passed.drop()
        self._port.detach()

    # -- what the character device calls ---------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        descriptors = self._port.take_fds()
        if descriptors:
            self._passed.keep(descriptors)
        self._keys += data
        self._work()

    def _on_event(self, event: ChardevEvent) -> None:
        match event:
            case ChardevEvent.OPENED:
                self._greet = True
                self._greeted = False
                self._keys.clear()
                self._work()
            case ChardevEvent.CLOSED:
                self._greet = False
                self._client += 1
                self._keys.clear()
                self._held_back.clear()
                self._passed.close_waiting()
                if self._running_for is None:
                    self._asked = None
            case ChardevEvent.MUX_OUT:
                if self._greeted and self._asked is None:
                    self._write("\n")
                self._has_focus = False
            case ChardevEvent.MUX_IN:
                self._come_back()
            case ChardevEvent.BREAK:
                pass

    def _come_back(self) -> None:
        if self._has_focus:
            return
        self._has_focus = True
        held, self._held_back = self._held_back, []
        self._write("".join(held))
        if self._greeted and self._asked is None:
            self._prompt()

    # -- keys ------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Take the keys that have come, up to one that has to be waited for."""
        if self._asked is not None or self._ended:
            return
        if self._greet:
            if self._turn.taken:
                self._port.set_paused(paused=True)
                self._turn.call_when_free(self._work)
                return
            self._greet, self._greeted = False, True
            self._editor.restart()
            self._write(GREETING)
            if self._has_focus:
                self._prompt()
        editor = self._editor
        taken = 0
        for byte in self._keys[:BURST]:
            taken += 1
            self._asked = editor.handle(byte)
            if self._asked is not None:
                break
        del self._keys[:taken]
        editor.redraw()
        self._write(editor.take_output())
        if self._asked is not None:
            self._begin()
        elif self._keys:
            asyncio.get_running_loop().call_soon(self._work)
        self._port.set_paused(paused=self._asked is not None or bool(self._keys))

    def _begin(self) -> None:
        """Do what was asked, in turn."""
        if self._asked is None or self._running_for is not None:
            return
        if self._turn.taken:
            self._turn.call_when_free(self._begin)
            return
        self._turn.taken = True
        self._running_for = self._client
        task = asyncio.get_running_loop().create_task(
            self._do(self._asked, self._client), name="human monitor", context=self._context
        )
        self._task = task
        task.add_done_callback(self._done)

    async def _do(self, asked: Entered | CompletionWanted, client: int) -> None:
        """Run a line, or find how it could go on; a client that has left is told nothing, nor is the next one."""
        if isinstance(asked, CompletionWanted):
            from qemud.monitor.hmp.completion import completions

            found = await completions(self._shell, asked.text)
            if client == self._client:
                self._editor.complete(*found)
                self._write(self._editor.take_output())
            return
        output = await self._shell.run(asked.line)
        self._ended = self._shell.ended
        if client == self._client:
            self._write(output)

    def _done(self, task: asyncio.Task[None]) -> None:
        """The line has run: on with the next, once the output has left."""
        self._task = None
        self._turn.release(self._begin)
        if task.cancelled():
            return
        entered = isinstance(self._asked, Entered)
        error = task.exception()
        if error is not None:
            raise error
        draining = asyncio.get_running_loop().create_task(self._settle())
        self._task = draining
        draining.add_done_callback(lambda _task: self._go_on(prompt=entered))

    async def _settle(self) -> None:
        """The output has left, and what the line has begun is done."""
        await self._port.drain()
        lasts, self._shell.lasts = self._shell.lasts, None
        if lasts is not None:
            await lasts()

    def _go_on(self, *, prompt: bool) -> None:
        self._task = None
        same = self._running_for == self._client
        self._asked = self._running_for = None
        if self._ended:
            return
        if prompt and same and self._has_focus:
            self._prompt()
        self._work()

    # -- output ----------------------------------------------------------------------------------------------------------

    def _prompt(self) -> None:
        self._editor.show_prompt()
        self._editor.redraw()
        self._write(self._editor.take_output())

    def _write(self, text: str) -> None:
        """Write, or keep it while another user has the focus."""
        if not text:
            return
        if self._has_focus:
            self._port.write(text.replace("\n", "\r\n").encode("utf-8", "replace"))
        else:
            self._held_back.append(text)

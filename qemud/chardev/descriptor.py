"""Non-blocking descriptors under a chardev: output by a queue, input on demand, and the other side's going away.

`DescriptorChardev` is what sockets, terminals, pipes and standard input share.  Three small parts do the work:

- `Output` writes at once what the descriptor takes and queues the rest until it is writable;
- `Input` watches the descriptor only while the user takes input, so that a slow user slows the sender and nothing else;
- `HangupWatch` notices that the other side has gone while nobody reads.  It watches an epoll instance of its own, which
  asks for hang-ups only: the event loop can watch for readable and writable, nothing less.

A sender that has merely finished (`printf … | socat - UNIX:qmp`) has not gone: it waits for answers.  The end of its input is
seen when the user comes to it, after all that was sent before, and acted on when the answers have left.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
from collections import deque
from typing import TYPE_CHECKING

from qemud.chardev.stream import LOW_WATER, READ_SIZE, Chardev

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEEP_LIMIT = 1024 * 1024
"""How much input of vanished senders is kept for a user that does not read."""

_IOV_MAX = 64


class Output:
    """Bytes on their way out through a non-blocking descriptor."""

    def __init__(
        self,
        fd: int,
        *,
        failed: Callable[[OSError], object],
        drained: Callable[[], object],
        send: Callable[[bytes], int] | None = None,
        gather: Callable[[Sequence[bytes | memoryview]], int] | None = None,
    ) -> None:
        """`send` and `gather` write one and many buffers; without them it is write(2) and writev(2)."""
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._send = send or (lambda data: os.write(fd, data))
        self._gather = gather or (lambda buffers: os.writev(fd, buffers))
        self._failed = failed
        self._drained = drained
        self._queue: deque[bytes | memoryview] = deque()
        self.pending = 0

    def write(self, data: bytes) -> None:
        """Write now what can be written now, the rest later."""
        if not self._queue:
            try:
                sent = self._send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._failed(error)
                return
            if sent == len(data):
                return
            self._queue.append(memoryview(data)[sent:])
            self.pending = len(data) - sent
            self._loop.add_writer(self._fd, self._writable)
        elif data:
            self._queue.append(data)
            self.pending += len(data)

    def discard(self) -> None:
        """Throw away what is pending."""
        if self._queue:
            self._queue.clear()
            self.pending = 0
            self._loop.remove_writer(self._fd)
            self._drained()

    def close(self) -> None:
        """Stop; the caller closes the descriptor after this."""
        if self._queue:
            self._queue.clear()
            self.pending = 0
            self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        """The descriptor takes bytes again."""
        queue = self._queue
        try:
            sent = self._gather([queue[i] for i in range(min(len(queue), _IOV_MAX))])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.discard()
            self._failed(error)
            return
        before, self.pending = self.pending, self.pending - sent
        while sent:
            head = queue[0]
            if len(head) <= sent:
                sent -= len(head)
                queue.popleft()
            else:
                queue[0] = memoryview(head)[sent:]
                sent = 0
        if not queue:
            self._loop.remove_writer(self._fd)
            self._drained()
        elif self.pending <= LOW_WATER < before:
            self._drained()


class Input:
    """The watch for input on a descriptor, on only while it is wanted."""

    def __init__(self, fd: int, readable: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._readable = readable
        self.is_on = False

    def on(self) -> None:
        """Call `readable` as long as there is something to read."""
        if not self.is_on:
            self._loop.add_reader(self._fd, self._readable)
            self.is_on = True

    def off(self) -> None:
        """Do not look."""
        if self.is_on:
            self.is_on = False
            self._loop.remove_reader(self._fd)


class HangupWatch:
    """The watch for a hang-up, for the time in which nobody reads."""

    def __init__(self, fd: int, gone: Callable[[], object], events: int) -> None:
        """`events` are those to look for beside hang-ups of both directions and errors, which always come."""
        self._fd = fd
        self._events = events
        self._epoll = select.epoll()
        self._epoll.register(fd, events)
        self._input = Input(self._epoll.fileno(), gone)

    def on(self, events: int) -> None:
        """Call `gone` when the other side has gone; `events` as before."""
        if events != self._events:
            self._events = events
            self._epoll.modify(self._fd, events)
        self._input.on()

    def off(self) -> None:
        """Do not look."""
        self._input.off()

    def close(self) -> None:
        """Forget the descriptor; before it is closed."""
        self._input.off()
        self._epoll.close()


def is_pollable(fd: int) -> bool:
    """Whether the loop can watch a descriptor: files and devices such as /dev/null are always ready and cannot be."""
    epoll = select.epoll()
    try:
        epoll.register(fd, 0)
    except PermissionError:
        return False
    finally:
        epoll.close()
    return True


def is_file(fd: int) -> bool:
    """Whether a write may have to wait for a disk."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


class DescriptorChardev(Chardev):
    """A chardev over one or two non-blocking descriptors.

    A kind calls `connect` when it has them and `disconnect` when it gives them up; it overrides `receive` where reading is more
    than read(2), and `input_ended`, which is told of the end of input and of errors.
    """

    _output: Output | None = None
    _input: Input | None = None
    _watch: HangupWatch | None = None
    _fd_in = -1
    _ending = False  # input has ended, output has not all left

    hangup_events: int | None = 0
    """What tells, beside a hang-up of both directions, that nobody is there for the output; None: not even that.

    It is not looked for while the other side may have finished and be waiting: for answers, for a user to come, for the last bytes.
    """

    def connect(self, fd_in: int, output: Output | None) -> None:
        """Serve these from now on; `fd_in` is -1 where there is no input."""
        self._output = output
        self._fd_in = fd_in
        if fd_in >= 0:
            self._input = Input(fd_in, self._readable)
            self._update_input()

    def disconnect(self) -> None:
        """Serve no longer; the caller closes the descriptors."""
        self.drop_input()
        self._fd_in = -1
        self._ending = False
        output, self._output = self._output, None
        if output is not None:
            had = output.pending
            output.close()
            if had:
                self.output_drained()

    def drop_input(self) -> None:
        """Look at the input no more, and for a hang-up neither."""
        if self._input is not None:
            self._input.off()
            self._input = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def receive(self, size: int) -> bytes:
        """Read up to `size` bytes; b"" at the end of input."""
        return os.read(self._fd_in, size)

    def decode(self, data: bytes) -> None:
        """Pass on what was read."""
        self.received(data)

    def input_ended(self) -> None:
        """No more input will come."""

    def output_failed(self, error: OSError) -> None:  # noqa: ARG002 - for those who override it
        """Output is impossible.  What can still be read is read first, then input ends too."""
        if self._input is None:
            self.input_ended()
        elif not self._input.is_on:
            self._hung_up()
        else:  # the loop may have told of the error already, and tells once
            asyncio.get_running_loop().call_soon(self._hung_up_from, self._input)

    def transmit(self, data: bytes) -> None:
        """As in the base."""
        if self._output is not None:
            self._output.write(data)

    @property
    def pending(self) -> int:
        """As in the base."""
        return 0 if self._output is None else self._output.pending

    def resume_input(self) -> None:
        """As in the base."""
        self._update_input()

    def stop_input(self) -> None:
        """As in the base."""
        self._update_input()

    def _update_input(self) -> None:
        """Watch for input or for a hang-up, after what the user wants."""
        if self._input is None:
            return
        if self.allowance > 0:
            if self._watch is not None:
                self._watch.off()
            self._input.on()
        else:
            self._input.off()
            self._watch_hangup()

    def _watch_hangup(self) -> None:
        """Nobody reads for now."""
        events = self.hangup_events
        if events is None:
            return
        if self._ending or self._port is None or self._port.answers:
            events = 0
        if self._watch is None:
            self._watch = HangupWatch(self._fd_in, self._hung_up, events)
        self._watch.on(events)

    def _readable(self) -> None:
        """There is input, or its end.

        Behind the last input of one who has gone with an error is the end, and of that uvloop tells no second time: so look at once.
        """
        watch = self._input
        if self._read() and self._input is watch and self._read() and self._input is watch:
            asyncio.get_running_loop().call_soon(self._readable_from, watch)

    def _readable_from(self, watch: Input | None) -> None:
        """Read on, if it is still the same descriptor."""
        if watch is not None and self._input is watch and watch.is_on:
            self._readable()

    def _hung_up_from(self, watch: Input) -> None:
        """Give up, if it is still the same descriptor."""
        if self._input is watch:
            self._hung_up()

    def _read(self) -> bool:
        """Take one piece of input; whether there was one, and there may be more."""
        allowance = self.allowance
        if allowance <= 0:
            self._update_input()
            return False
        try:
            data = self.receive(min(READ_SIZE, allowance))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:  # reset, or a terminal that was hung up: the end as well
            self.input_ended()
            return False
        if not data:
            self.end_when_sent()
            return False
        self.decode(data)
        if self._input is not None and self.allowance <= 0:
            self._update_input()
            return False
        return True

    def end_when_sent(self) -> None:
        """The other side sends no more; it may still read."""
        if not self.pending:
            self.input_ended()
            return
        self._ending = True
        if self._input is not None:
            self._input.off()
            self._watch_hangup()

    def output_drained(self) -> None:
        """As in the base."""
        super().output_drained()
        if self._ending and not self.pending:
            self._ending = False
            self.input_ended()

    def _hung_up(self) -> None:
        """The other side has gone while nobody reads: keep what it sent, for a user that may still come to it."""
        fd_in = self._fd_in
        while self._fd_in == fd_in >= 0 and self.kept < KEEP_LIMIT:
            try:
                data = self.receive(READ_SIZE)
            except OSError:
                break
            if not data:
                break
            self.decode(data)
        if self._fd_in == fd_in >= 0:
            self.input_ended()

"""One line being typed: editing, history, completion.  No I/O: keys go in, what to write to the terminal comes out.

    editor = LineEditor("(qemu) ")
    editor.show_prompt()
    for byte in keys:
        match editor.handle(byte):
            case Entered(line): ...                    # Return was pressed
            case CompletionWanted(text): ...           # Tab was: `complete` with what it could go on with
    terminal.write(editor.take_output())

Keys: arrows, Home, End, Delete, Backspace, Ctrl-A -E -D -H -L -N -P -U -W.  Lines end in LF in the output.

Source: QEMU 10.0, util/readline.c, for keys and for what is sent to the terminal.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

MAX_LINE = 4095
LONG_LINE = 256
"""A longer line is not drawn again for each key: what that sends grows with the square of its length."""
MAX_HISTORY = 64
MAX_COMPLETIONS = 256
_LEFT, _RIGHT, _CLEAR_TO_END = "\x1b[D", "\x1b[C", "\x1b[K"
_CLEAR_SCREEN = "\x1b[2J\x1b[1;1H"
_WIDTH = 80
_MAX_PARAMETER = 1000

_KEYS = {
    0x01: "home",
    0x04: "delete",
    0x05: "end",
    0x08: "backspace",
    0x0E: "newer",
    0x10: "older",
    0x15: "kill_to_start",
    0x17: "kill_word",
    0x7F: "backspace",
}
_SEQUENCES = {
    "[A": "older",
    "[B": "newer",
    "[C": "right",
    "[D": "left",
    "[F": "end",
    "[H": "home",
    "OF": "end",
    "OH": "home",
    "[1~": "home",
    "[3~": "delete",
    "[4~": "end",
}
"""Which method a key, or an escape sequence without its first byte, stands for."""


class Entered(NamedTuple):
    """A line was finished."""

    line: str


class CompletionWanted(NamedTuple):
    """How could the line go on?  `text` is what is before the cursor."""

    text: str


class LineEditor:
    """See the module.  `history` holds the lines entered, the oldest first."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self.history: list[str] = []
        self._chosen: int | None = None  # the line of the history that is being edited
        self._line: list[str] = []
        self._cursor = 0
        self._shown: list[str] = []
        self._shown_cursor = 0
        self._escape = ""  # the introducer of an escape sequence, once its first byte has come
        self._parameter = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._output: list[str] = []

    def take_output(self) -> str:
        """What is to be written since the last time."""
        output = "".join(self._output)
        self._output.clear()
        return output

    def restart(self) -> None:
        """Begin with an empty line."""
        self._line, self._cursor, self._chosen = [], 0, None
        self._decoder.reset()

    def show_prompt(self) -> None:
        """Write the prompt, on a line of its own; `redraw` writes the line behind it."""
        self._output.append(self._prompt)
        self._shown, self._shown_cursor = [], 0
        self._escape = ""

    def handle(self, byte: int) -> Entered | CompletionWanted | None:
        """One byte from the keyboard."""
        event = None
        if self._escape:
            self._continue_escape(byte)
        elif byte in {0x0A, 0x0D}:
            return self._enter()
        elif byte == 0x09:
            event = CompletionWanted("".join(self._line[: self._cursor]))
        elif byte == 0x1B:
            self._escape = "\x1b"
        elif byte == 0x0C:
            self._output.append(_CLEAR_SCREEN)
            self.show_prompt()
        elif byte in _KEYS:
            self._press(_KEYS[byte])
        elif byte >= 0x20:
            self._insert(self._decoder.decode(bytes((byte,))))
        if len(self._line) <= LONG_LINE:
            self.redraw()
        return event

    def redraw(self) -> None:
        """Bring the terminal up to date with the line and the cursor; to be called after each burst of keys."""
        if self._line != self._shown:
            self._output.append(_LEFT * self._shown_cursor + "".join(self._line) + _CLEAR_TO_END)
            self._shown = list(self._line)
            self._shown_cursor = len(self._line)
        distance = self._cursor - self._shown_cursor
        self._output.append(_RIGHT * distance if distance > 0 else _LEFT * -distance)
        self._shown_cursor = self._cursor

    # -- completion ------------------------------------------------------------------------------------------------------

    def complete(self, typed: str, candidates: list[str]) -> None:
        """Go on with what the `candidates` have in common behind `typed`, the word at the cursor; show them if there are several."""
        names = sorted(set(candidates))[:MAX_COMPLETIONS]
        if not names:
            return
        if len(names) == 1:
            self._insert(names[0][len(typed) :] + ("" if names[0].endswith("/") else " "))
        else:
            self._insert(_common_beginning(names)[len(typed) :])
            self._show_columns(names)
            self.show_prompt()
        self.redraw()

    def _show_columns(self, names: list[str]) -> None:
        width = min(max(max(map(len, names)) + 2, 10), _WIDTH)
        columns = _WIDTH // width
        self._output.append("\n")
        for start in range(0, len(names), columns):
            row = names[start : start + columns]
            self._output.append("".join(f"{name:<{width}}" for name in row) + "\n")

    # -- keys ------------------------------------------------------------------------------------------------------------

    def _enter(self) -> Entered:
        self.redraw()
        line = "".join(self._line)
        self._remember(line)
        self._output.append("\n")
        self.restart()
        self._shown, self._shown_cursor = [], 0
        return Entered(line)

    def _insert(self, text: str) -> None:
        room = MAX_LINE - len(self._line)
        characters = [character for character in text if character.isprintable()][:room]
        self._line[self._cursor : self._cursor] = characters
        self._cursor += len(characters)

    def _press(self, key: str) -> None:
        getattr(self, f"_{key}")()

    def _left(self) -> None:
        self._cursor = max(self._cursor - 1, 0)

    def _right(self) -> None:
        self._cursor = min(self._cursor + 1, len(self._line))

    def _home(self) -> None:
        self._cursor = 0

    def _end(self) -> None:
        self._cursor = len(self._line)

    def _delete(self) -> None:
        del self._line[self._cursor : self._cursor + 1]

    def _backspace(self) -> None:
        if self._cursor:
            self._left()
            self._delete()

    def _kill_word(self) -> None:
        """Delete the word before the cursor, and the space between."""
        start = self._cursor
        while start and self._line[start - 1].isspace():
            start -= 1
        while start and not self._line[start - 1].isspace():
            start -= 1
        del self._line[start : self._cursor]
        self._cursor = start

    def _kill_to_start(self) -> None:
        del self._line[: self._cursor]
        self._cursor = 0

    def _continue_escape(self, byte: int) -> None:
        """A byte of an escape sequence."""
        key = chr(byte)
        if self._escape == "\x1b":
            self._escape = key if key in "[O" else ""
            self._parameter = 0
        elif self._escape == "[" and key.isascii() and key.isdigit():
            self._parameter = min(self._parameter * 10 + int(key), _MAX_PARAMETER)
        else:
            name = f"{self._escape}{self._parameter}~" if key == "~" else self._escape + key
            self._escape = ""
            if name in _SEQUENCES:
                self._press(_SEQUENCES[name])

    # -- history ---------------------------------------------------------------------------------------------------------

    def _remember(self, line: str) -> None:
        """Put a line at the end of the history; it is there once."""
        if not line:
            return
        if line in self.history:
            self.history.remove(line)
        self.history.append(line)
        del self.history[:-MAX_HISTORY]

    def _older(self) -> None:
        at = len(self.history) if self._chosen is None else self._chosen
        if at:
            self._choose(at - 1)

    def _newer(self) -> None:
        if self._chosen is None:
            return
        if self._chosen + 1 < len(self.history):
            self._choose(self._chosen + 1)
        else:
            self.restart()

    def _choose(self, index: int) -> None:
        self._chosen = index
        self._line = list(self.history[index])
        self._cursor = len(self._line)


def _common_beginning(names: list[str]) -> str:
    """The longest text that all names, which are sorted, begin with."""
    first, last = names[0], names[-1]
    length = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return first[: min(len(first), len(last)) if length is None else length]

"""Keys: what becomes of the line, and what the terminal is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.monitor.hmp.editor import MAX_HISTORY, MAX_LINE, CompletionWanted, Entered, LineEditor

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (
    "\x1b[D",
    "\x1b[C",
    "\x1b[A",
    "\x1b[B",
    "\x1b[1~",
    "\x1b[4~",
    "\x1b[3~",
)


def press(editor, keys):
    """What the keys made happen."""
    events = [editor.handle(byte) for byte in keys.encode()]
    return [event for event in events if event is not None]


def typed(keys, *before):
    """The line that is entered by `keys` and Return, after those in `before`."""
    editor = LineEditor("> ")
    for line in before:
        press(editor, line + "\r")
    [entered] = press(editor, keys + "\r")
    return entered.line


class Screen:
    """One line of a terminal, as far as the editor uses it."""

    def __init__(self):
        self.cells: list[str] = []
        self.cursor = 0

    def show(self, output):
        at = 0
        while at < len(output):
            sequence = next((s for s in ("\x1b[D", "\x1b[C", "\x1b[K") if output.startswith(s, at)), None)
            if sequence is None:
                self.cells[self.cursor : self.cursor + 1] = [output[at]]
                self.cursor += 1
                at += 1
                continue
            at += len(sequence)
            match sequence:
                case "\x1b[D":
                    self.cursor -= 1
                case "\x1b[C":
                    self.cursor += 1
                case _:
                    del self.cells[self.cursor :]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("abc", "abc"),
        ("ac" + LEFT + "b", "abc"),
        ("bc\x01a", "abc"),
        ("bc" + HOME + "a" + END + "d", "abcd"),
        ("bc\x1bOHa\x1bOFd", "abcd"),
        ("bc\x1b[Ha\x1b[Fd", "abcd"),
        ("abc\x01\x05d", "abcd"),
        ("abxc" + LEFT + "\x7f", "abc"),
        ("abxc" + LEFT + "\x08", "abc"),
        ("abxc" + LEFT + LEFT + "\x04", "abc"),
        ("abxc" + LEFT + LEFT + DELETE, "abc"),
        ("one two  \x17three", "one three"),
        ("one two\x17\x17\x17", ""),
        ("one two" + LEFT + "\x15", "o"),
        (RIGHT + LEFT + "\x7f\x04a", "a"),
        ("h\u00e9\u20ac" + LEFT + "x", "h\u00e9x\u20ac"),
        ("a\x1bxb\x1b[9~c\x1b[200~d", "abcd"),
    ],
)
def test_editing(keys, line):
    assert typed(keys) == line


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (UP, "two"),
        ("\x10", "two"),
        (UP + UP, "one"),
        (UP * 9, "one"),
        (UP + UP + DOWN, "two"),
        (UP + DOWN + "x", "x"),
        ("\x10\x10\x0e", "two"),
        (DOWN + "x", "x"),
        (UP + "!", "two!"),
        ("abc" + UP, "two"),
    ],
)
def test_history(keys, line):
    assert typed(keys, "one", "two") == line


def test_history_has_each_line_once_and_has_an_end():
    editor = LineEditor("> ")
    for line in ("a", "b", "", "a"):
        press(editor, line + "\r")
    assert editor.history == ["b", "a"]
    for number in range(100):
        press(editor, f"{number}\r")
    assert len(editor.history) == MAX_HISTORY
    assert editor.history[-1] == "99"


def test_a_line_has_an_end():
    assert typed("x" * (MAX_LINE + 100)) == "x" * MAX_LINE


def test_a_long_line_costs_no_more_than_a_few_screens():
    editor = LineEditor("> ")
    press(editor, "x" * MAX_LINE)
    editor.redraw()
    assert len(editor.take_output()) < 200_000
    assert press(editor, "\r") == [Entered("x" * MAX_LINE)]


def test_the_terminal_is_sent_what_qemu_sends():
    editor = LineEditor("(qemu) ")
    editor.show_prompt()
    press(editor, "ab" + LEFT + "c")
    assert editor.take_output() == "(qemu) a\x1b[K\x1b[Dab\x1b[K\x1b[D\x1b[Dacb\x1b[K\x1b[D"
    press(editor, "\x0c")
    assert editor.take_output() == "\x1b[2J\x1b[1;1H(qemu) acb\x1b[K\x1b[D"


def test_completion_of_the_only_candidate():
    editor = LineEditor("> ")
    assert press(editor, "info ver\t") == [CompletionWanted("info ver")]
    editor.complete("ver", ["version"])
    assert press(editor, "\r") == [Entered("info version ")]


def test_completion_of_several_goes_as_far_as_they_agree_and_shows_them():
    editor = LineEditor("> ")
    press(editor, "cha\t")
    editor.take_output()
    editor.complete("cha", ["chardev-remove", "chardev-add"])
    assert editor.take_output() == "\nchardev-add     chardev-remove  \n> chardev-\x1b[K"
    assert press(editor, "\r") == [Entered("chardev-")]


def test_completion_in_the_middle_and_of_folders():
    editor = LineEditor("> ")
    assert press(editor, "logfile /t" + "  x" + LEFT * 3 + "\t") == [CompletionWanted("logfile /t")]
    editor.complete("/t", ["/tmp/"])
    assert press(editor, "\r") == [Entered("logfile /tmp/  x")]
    editor.complete("", [])
    assert press(editor, "\r") == [Entered("")]


@given(st.lists(st.sampled_from([LEFT, RIGHT, UP, DOWN, HOME, END, DELETE, *"ab \x7f\x01\x05\x15\x17\x1b"])))
def test_what_is_on_the_screen_is_the_line(keys):
    editor = LineEditor("> ")
    press(editor, "first\rsecond line\r")
    editor.take_output()
    editor.show_prompt()
    screen = Screen()
    press(editor, "".join(keys))
    editor.redraw()
    screen.show(editor.take_output())
    assert "".join(screen.cells).startswith("> ")
    shown, cursor = "".join(screen.cells)[2:], screen.cursor - 2
    # The first Ctrl-L may be swallowed by an escape sequence that was not finished.
    press(editor, "\x0c\x0c")
    editor.take_output()
    press(editor, "|")
    [entered] = press(editor, "\r")
    assert entered.line == shown[:cursor] + "|" + shown[cursor:]


@given(st.binary(max_size=200))
def test_any_bytes(keys):
    editor = LineEditor("> ")
    for byte in keys:
        event = editor.handle(byte)
        if isinstance(event, CompletionWanted):
            editor.complete("", ["x", "xy"])
    assert isinstance(editor.take_output(), str)

"""`-icount`: what it takes, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from qemud._generated.types.icount import IcountOptions
from qemud.daemon.accelerator import choose_accelerator
from qemud.daemon.cmdline import HelpWanted, UsageError, parse


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), None),
        (("3",), IcountOptions(shift="3")),
        (("shift=0x0a,sleep=off",), IcountOptions(shift="0x0a", sleep=False)),
        (("sleep=off",), IcountOptions(sleep=False)),
        (("sleep=off", "shift=7"), IcountOptions(shift="7", sleep=False)),
        (("1", "shift=2,sleep=on"), IcountOptions(shift="2", sleep=True)),
    ],
)
def test_what_it_takes(words: tuple[str, ...], expected: Any) -> None:
    """Later ones add to earlier ones, as in QEMU."""
    assert parse([word for text in words for word in ("-icount", text)]).icount == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("11", "icount: Invalid shift value"),
        ("-1", "icount: Invalid shift value"),
        ("shift=", "icount: Invalid shift value"),
        ("shift=3x", "icount: Invalid shift value"),
        ("shift=18446744073709551619", "icount: Invalid shift value"),
        ("auto", "icount: shift=auto is not supported, expected 0 to 10"),
        ("3,sleep=maybe", "Parameter 'sleep' expects 'on' or 'off'"),
        ("help", "icount: Invalid shift value"),
        ("3,align=on", "Invalid parameter 'align'"),
        ("3,rr=record,rrfile=x", "Invalid parameter 'rr'"),
    ],
)
def test_what_it_does_not(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(["-icount", text])
    assert str(error.value) == f"-icount {text}: {complaint}"


def test_help() -> None:
    """As in QEMU, not in the place of the shift."""
    with pytest.raises(HelpWanted):
        parse(["-icount", "3,help"])


def test_one_thread_runs_what_is_counted() -> None:
    line = parse(["-icount", "3", "-accel", "tcg,thread=multi"])
    with pytest.raises(UsageError, match=r"^-accel tcg,thread=multi: No MTTCG when icount is enabled$"):
        choose_accelerator(line, None)
    assert choose_accelerator(parse(["-icount", "3", "-accel", "tcg,thread=single"]), None)
    assert choose_accelerator(parse(["-icount", "sleep=off", "-accel", "tcg,thread=multi"]), None)

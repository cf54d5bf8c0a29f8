"""`-accel` and `-boot`: what is asked of engine and firmware is done, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qemud._generated.types.options import BootConfiguration
from qemud.daemon.accelerator import choose_accelerator
from qemud.daemon.cmdline import UsageError, parse

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

BOARD = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-S")
MIB = 1 << 20
BOOTED = "what is booted is what -kernel and -bios name"


def room_for_code(program: Program) -> list[float]:
    """Sizes of what can be written and run in the process, in MiB, without what is small."""
    sizes = []
    for line in Path(f"/proc/{program.process.pid}/maps").read_text().splitlines():
        addresses, permissions, *_ = line.split()
        if permissions.startswith("rwx"):
            begin, _, end = addresses.partition("-")
            sizes.append((int(end, 16) - int(begin, 16)) / MIB)
    return [size for size in sizes if size > 1 / 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), 256), (("-accel", "tcg"), 256), (("-accel", "tcg,tb-size=8,thread=single"), 8)],
)
def test_room_for_translated_code_is_what_was_asked_for(
    daemon: Starter, options: tuple[str, ...], expected: int
):
    (room,) = room_for_code(daemon(*BOARD, *options))
    assert expected - 0.1 < room <= expected


def test_properties_of_the_engine_survive_in_a_document(daemon: Starter, tmp_path: Path):
    document = daemon(*BOARD, "-accel", "tcg,tb-size=16").qmp.command("query-config")
    assert document["accel"]["tb-size"] == 16
    path = tmp_path / "machine.json"
    path.write_text(json.dumps({member: document[member] for member in ("accel", "machine", "paused")}))
    (room,) = room_for_code(daemon("--config", str(path)))
    assert 15 < room <= 16
    assert "accel" not in daemon(*BOARD).qmp.command("query-config")


def test_the_first_engine_that_exists_is_taken(capfd: pytest.CaptureFixture[str]):
    line = parse(["-accel", "kvm,foo=1", "-accel", "tcg,tb-size=3,thread=multi", "-accel", "tcg,tb-size=4"])
    assert choose_accelerator(line, None).tb_size == 3
    assert [text.partition(": ")[2] for text in capfd.readouterr().err.splitlines()] == [
        "-accel kvm,foo=1: invalid accelerator kvm",
        "falling back to tcg",
    ]
    assert choose_accelerator(parse([]), "kvm:tcg").tb_size == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kvm", "invalid accelerator kvm"),
        ("tcg,foo=1", "Property 'tcg-accel.foo' not found"),
        ("tcg,help", "Property 'tcg-accel.help' not found"),
        ("tcg,thread=x", "Invalid 'thread' setting x"),
        ("tcg,tb-size=-1", "Parameter 'tb-size' expects uint32_t"),
        ("tcg,tb-size=99999999999", "Parameter 'tb-size' expects uint32_t"),
        ("tcg,tb-size=1M", "Parameter 'tb-size' expects uint64"),
        ("tcg,split-wx=maybe", "Parameter 'split-wx' expects 'on' or 'off'"),
        ("tcg,tb-size=4000", "tb-size=4000 was given, at most 2048 (MiB) was expected"),
        ("tcg,split-wx=on", "the engine cannot do this: split-wx=on was given, split-wx=off was expected"),
        (
            "tcg,one-insn-per-tb=on",
            "the engine cannot do this: one-insn-per-tb=on was given, one-insn-per-tb=off was expected",
        ),
    ],
)
def test_what_the_engine_cannot_do_is_refused(text: str, told: str):
    with pytest.raises(UsageError) as caught:
        choose_accelerator(parse(["-accel", text]), None)
    assert str(caught.value) == f"-accel {text}: {told}"


def test_two_ways_to_ask_for_an_engine_do_not_go_together():
    with pytest.raises(UsageError, match=r'^The -accel and "-machine accel=" options are incompatible$'):
        choose_accelerator(parse(["-accel", "tcg"]), "tcg")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("order=zz", "Invalid boot device 'z'"),
        ("cc", "Boot device 'c' was given twice"),
        ("once=ca1", "Invalid boot device '1'"),
        ("foo=1", "Parameter 'boot.foo' is unexpected"),
        ("strict=maybe", "Parameter 'boot.strict' expects 'on' or 'off'"),
        *(
            (
                text,
                f"-boot {'order=' if text == 'c' else ''}{text}: no firmware of this machine would be told; {BOOTED}",
            )
            for text in ("c", "once=n", "menu=on", "splash=x", "splash-time=3", "reboot-timeout=5")
        ),
    ],
)
def test_nothing_is_taken_that_no_firmware_would_be_told(text: str, told: str):
    with pytest.raises(UsageError) as caught:
        parse(["-boot", text])
    assert str(caught.value) == told
    assert parse(["-boot", "strict=on,menu=off"]).boot == BootConfiguration(strict=True)

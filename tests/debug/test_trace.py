"""Trace events: which there are, how they are enabled, and that they tell what happens."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qemud
from qemud.debug import trace
from qemud.logs import traced
from qemud.qapi.runtime.errors import GenericError
from tests.programs import QmpError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Starter


@pytest.fixture(autouse=True)
def _nothing_enabled() -> Iterator[None]:
    traced.clear()
    yield
    traced.clear()


def emitted() -> tuple[set[str], set[str]]:
    """The names that the program's source traces, and those that it asks about before."""
    calls: set[str] = set()
    guards: set[str] = set()
    for path in Path(qemud.__path__[0]).rglob("*.py"):
        if "_generated" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Call(func=ast.Name(id="trace"), args=[ast.Constant(value=str(name)), *_]):
                    calls.add(name)
                case ast.Compare(left=ast.Constant(value=str(name)), comparators=[ast.Name(id="traced")]):
                    guards.add(name)
    return calls, guards


def test_every_event_of_the_schema_is_traced_behind_a_guard_and_no_other() -> None:
    calls, guards = emitted()
    assert calls == guards == set(trace.NAMES)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("runstate_set", ["runstate_set"]),
        ("runstate_*", ["runstate_set"]),
        ("*ops_re?d", ["memory_region_ops_read"]),
        ("runstate_se?", []),
        ("[r]*", []),
        ("nope", []),
        ("", []),
        ("*", list(trace.NAMES)),
    ],
)
def test_patterns(pattern: str, names: list[str]) -> None:
    assert trace.matching(pattern) == names


@given(st.text(st.sampled_from("*?[]!-_abr"), max_size=8))
def test_any_pattern_means_some_events(pattern: str) -> None:
    assert set(trace.matching(pattern)) <= set(trace.NAMES)


def test_a_file_of_patterns(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text("# all but one\n\n*\n-runstate_set\nnope\n")
    warnings: list[str] = []
    trace.start([_options(events=str(path))], warnings.append)
    assert traced == set(trace.NAMES) - {"runstate_set"}
    assert warnings == [f"{path}:5: warning: trace event 'nope' does not exist"]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(GenericError, match=r"^/nope/events: No such file or directory$"):
        trace.start([_options(events="/nope/events")], print)


def _options(**given: Any) -> Any:
    from qemud._generated.types.options import TraceOptions

    return TraceOptions(**given)


def records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The trace records of a log: the event and its fields."""
    found = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record.pop("room") == "trace":
            event = record.pop("event")
            del record["level"], record["timestamp"]
            found.append((event, record))
    return found


def test_events_go_to_the_log_while_they_are_enabled(daemon: Starter, tmp_path: Path) -> None:
    log = tmp_path / "log"
    board = ("-machine", "virt", "-m", "16", "-nodefaults", "-S", "-display", "none", "-monitor", "none")
    program = daemon(*board, "-trace", f"enable=runstate_*,file={log}")
    qmp = program.qmp
    qmp.command("cont")
    qmp.command("trace-event-set-state", name="*_request", enable=True)
    qmp.command("trace-event-set-state", name="monitor_protocol_event_emit", enable=True)
    qmp.command("system_powerdown")
    qmp.command("trace-event-set-state", name="*", enable=False)
    qmp.command("stop")
    assert records(log) == [
        ("runstate_set", {"old": "prelaunch", "new": "running"}),
        ("qemu_system_powerdown_request", {}),
        ("monitor_protocol_event_emit", {"name": "POWERDOWN"}),
    ]


def test_registers_and_calls_of_firmware_are_traced(daemon: Starter, tmp_path: Path) -> None:
    """A guest that writes to its serial port and then switches off."""
    log, kernel = tmp_path / "log", tmp_path / "kernel"
    code = (
        0x100002B7,  # lui   t0, 0x10000     the serial port
        0x04100313,  # li    t1, 'A'
        0x00628023,  # sb    t1, 0(t0)
        0x535258B7,  # lui   a7, 0x53525
        0x35488893,  # addi  a7, a7, 0x354   extension "SRST"
        0x00000813,  # li    a6, 0
        0x00000513,  # li    a0, 0           shutdown
        0x00000593,  # li    a1, 0
        0x00000073,  # ecall
    )
    kernel.write_bytes(b"".join(word.to_bytes(4, "little") for word in code))
    program = daemon(
        *("-machine", "virt", "-m", "16", "-nodefaults", "-display", "none", "-monitor", "none"),
        *("-kernel", str(kernel), "-trace", "riscv_sbi_call", "-trace", "memory_region_ops_write"),
        *("-D", str(log)),
        qmp=False,
    )
    assert program.wait() == 0
    written = {"region": "/machine/uart0/serial", "offset": 0, "size": 1, "value": 0x41}
    assert records(log) == [
        ("memory_region_ops_write", written),
        ("riscv_sbi_call", {"extension": 0x53525354, "function": 0, "arguments": [0, 0, 0]}),
    ]


def test_states_are_told_and_unknown_events_refused(daemon: Starter) -> None:
    program = daemon("-machine", "none", "-nodefaults", "-S", "-display", "none", "-monitor", "none")
    qmp = program.qmp
    assert qmp.command("trace-event-get-state", name="runstate_set") == [
        {"name": "runstate_set", "state": "disabled"}
    ]
    qmp.command("trace-event-set-state", {"name": "run*", "enable": True, "ignore-unavailable": True})
    states = {each["name"]: each["state"] for each in qmp.command("trace-event-get-state", name="*")}
    assert states == {**dict.fromkeys(trace.NAMES, "disabled"), "runstate_set": "enabled"}
    for command, more in (("trace-event-get-state", {}), ("trace-event-set-state", {"enable": True})):
        with pytest.raises(QmpError, match=r'^unknown event "nope"$'):
            qmp.command(command, {"name": "nope", **more})


def test_the_events_are_listed(daemon: Starter) -> None:
    program = daemon("-trace", "help", qmp=False)
    assert program.wait() == 0
    assert program.stdout.splitlines() == list(trace.NAMES)

"""What a machine is made of, told in the layout of QEMU, and requests that it refuses in QEMU's words."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

BOARD = ("-machine", "virt", "-m", "16", "-nodefaults", "-S", "-display", "none", "-monitor", "none")

SAME: tuple[tuple[str, dict[str, Any]], ...] = (
    ("query-memory-devices", {}),
    ("query-hotpluggable-cpus", {}),
    ("query-memory-size-summary", {}),
    ("system_wakeup", {}),
    ("inject-nmi", {}),
    ("x-query-numa", {}),
    ("query-block", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("query-jobs", {}),
    ("query-iothreads", {}),
    ("query-cpu-model-expansion", {"type": "static", "model": {"name": "rv64"}}),
    ("query-cpu-model-expansion", {"type": "full", "model": {"name": "nope"}}),
    ("query-cpu-model-expansion", {"type": "full", "model": {"name": "rv64", "props": {"foo": True}}}),
    ("query-cpu-model-expansion", {"type": "full", "model": {"name": "rv64", "props": []}}),
    ("query-cpu-model-expansion", {"type": "full", "model": {}}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events"}]}),
    ("query-stats", {"target": "vm"}),
    ("query-stats", {"target": "vcpu", "providers": [{"provider": "kvm"}]}),
    ("query-stats", {"target": "vcpu", "vcpus": []}),
    ("query-stats-schemas", {"provider": "kvm"}),
)


def ask(program: Program, command: str, arguments: dict[str, Any]) -> Any:
    try:
        return program.qmp.command(command, arguments)
    except QmpError as error:
        return f"{error.error_class}: {error}"


@pytest.mark.differential
def test_the_same_answers_as_qemu(daemon: Starter, reference: Starter) -> None:
    ours, theirs = daemon(*BOARD, "-serial", "null"), reference(*BOARD, "-serial", "null")
    for command, arguments in SAME:
        assert (command, ask(ours, command, arguments)) == (command, ask(theirs, command, arguments))


@pytest.mark.differential
def test_memory_backends_are_told_as_qemu_tells_them(daemon: Starter, reference: Starter) -> None:
    options = (*BOARD, "-serial", "null", "-object", "memory-backend-ram,id=a,size=1M,merge=off")
    found = []
    for program in (daemon(*options), reference(*options)):
        [backend] = [each for each in program.qmp.command("query-memdev") if each["id"] == "a"]
        backend.pop("reserve", None)
        found.append(backend)
    assert found[0] == found[1]


@pytest.mark.differential
def test_tables_have_qemus_layout(daemon: Starter, reference: Starter) -> None:
    def shape(program: Program, command: str) -> set[str]:
        lines = text(program, command).splitlines()
        return {
            re.sub(r"0x[0-9a-f]+|=[0-9a-f]{16}|[\w./@-]+(?= +4 KiB)|\"[^\"]*\"", "#", line).strip()
            for line in lines
        }

    ours, theirs = daemon(*BOARD, "-serial", "null"), reference(*BOARD, "-serial", "null", "-bios", "none")
    for command in ("x-query-ramblock", "x-query-roms"):
        assert shape(ours, command) <= shape(theirs, command)


def text(program: Program, command: str) -> str:
    found: str = program.qmp.command(command)["human-readable-text"]
    return found


def test_what_is_loaded(daemon: Starter, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(bytes(0x123))
    (tmp_path / "more").write_bytes(bytes(0x10))
    program = daemon(
        *BOARD,
        *("-kernel", str(tmp_path / "kernel"), "-bios", "none"),
        *("-device", f"loader,file={tmp_path}/more,addr=0x80400000,force-raw=on"),
    )
    lines = text(program, "x-query-roms").splitlines()
    assert f'addr=0000000080000000 size=0x000123 mem=ram name="{tmp_path}/kernel"' in lines
    assert f'addr=0000000080400000 size=0x000010 mem=ram name="{tmp_path}/more"' in lines
    assert any(re.fullmatch(r'addr=0000000000001000 size=0x\w+ mem=rom name=".*"', line) for line in lines)
    assert any(line.endswith('name="fdt"') for line in lines)


def test_interrupts_are_counted(daemon: Starter, tmp_path: Path) -> None:
    """The serial port's transmitter is empty, so enabling its interrupt makes one request."""
    code = (
        0x100002B7,  #     lui  t0, 0x10000    the serial port
        0x00200313,  #     li   t1, 2          an empty transmitter interrupts
        0x006280A3,  #     sb   t1, 1(t0)
        0x0000006F,  # 1:  j    1b
    )
    (tmp_path / "kernel").write_bytes(b"".join(word.to_bytes(4, "little") for word in code))
    program = daemon(*BOARD, "-serial", "null", "-bios", "none", "-kernel", str(tmp_path / "kernel"))
    assert not text(program, "x-query-irq")
    state = text(program, "x-query-interrupt-controllers")
    assert state.startswith("riscv.sifive.plic: /machine/plic\n")
    assert "context 1 (hart 0, S-mode): threshold 0, enabled: none" in state
    assert state.endswith("  level: none\n  pending: none\n  claimed: none\n")
    program.qmp.command("cont")
    while not text(program, "x-query-irq"):
        os.sched_yield()
    assert text(program, "x-query-irq") == "IRQ statistics for riscv.sifive.plic:\n10: 1\n"
    state = text(program, "x-query-interrupt-controllers")
    assert state.endswith("  level: 10\n  pending: 10\n  claimed: none\n")


def test_a_machine_without_devices_has_empty_tables(daemon: Starter) -> None:
    program = daemon("-machine", "none", *BOARD[4:])
    for command in ("x-query-irq", "x-query-interrupt-controllers", "x-query-roms"):
        assert text(program, command) == ""
    assert len(text(program, "x-query-ramblock").splitlines()) == 1
    assert program.qmp.command("query-stats", target="vcpu") == []


def test_statistics_of_the_thread_that_runs_the_guest(daemon: Starter, tmp_path: Path) -> None:
    (tmp_path / "loop").write_bytes(0x6F.to_bytes(4, "little"))  # 1: j 1b
    program = daemon(*BOARD, "-bios", "none", "-kernel", str(tmp_path / "loop"))
    qmp = program.qmp
    [schema] = qmp.command("query-stats-schemas")
    assert {each["name"] for each in schema["stats"]} == {"run-time", "wait-time"}
    assert all(
        (each["unit"], each["base"], each["exponent"]) == ("seconds", 10, -9) for each in schema["stats"]
    )

    def run_time() -> int:
        wanted = {"provider": "machine", "names": ["run-time"]}
        [result] = qmp.command("query-stats", target="vcpu", providers=[wanted])
        [cpu] = qmp.command("query-cpus-fast")
        assert result["qom-path"] == cpu["qom-path"]
        [stat] = result["stats"]
        value: int = stat["value"]
        return value

    before = run_time()
    qmp.command("cont")
    while run_time() < before + 20_000_000:
        os.sched_yield()
    qmp.command("stop")
    stopped = run_time()
    assert run_time() - stopped < 20_000_000
    assert qmp.command("query-stats", target="vcpu", vcpus=["/machine/nope"]) == []


def test_a_cpu_model_comes_to_the_properties_that_it_takes(daemon: Starter) -> None:
    qmp = daemon(*BOARD, "-serial", "null").qmp
    for name in ("rv64", "max"):
        expanded = qmp.command("query-cpu-model-expansion", type="full", model={"name": name, "props": {}})
        assert expanded == {"model": {"name": name}}

"""What x-query-registers and its like tell of a machine."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null")
RAM = 0x8000_0000
MROM = 0x1000
UART = 0x1000_0000


@pytest.fixture
def program(daemon: Starter) -> Program:
    return daemon(*BOARD, "-bios", "none", "-device", f"loader,addr={RAM},data=0x1122334455667788,data-len=8")


def read(program: Program, address: int, size: int, **more: Any) -> bytes:
    reply = program.qmp.command("x-read-memory", {"address": address, "size": size, **more})
    return b64decode(reply["data"])


def test_registers(program: Program) -> None:
    reply = program.qmp.command("x-query-registers")
    registers = {each["name"]: each["value"] for each in reply["registers"]}
    assert reply["cpu-index"] == 0
    assert registers["pc"] == MROM
    assert registers["x0/zero"] == 0
    assert {"mstatus", "satp", "x31/t6", "fcsr", "f31/ft11"} <= registers.keys()


def test_memory_ends_where_there_is_none(program: Program) -> None:
    assert read(program, RAM, 8) == bytes.fromhex("8877665544332211")
    assert read(program, RAM + (64 << 20) - 4, 16) == bytes(4)
    assert read(program, 0, 16) == b""
    assert read(program, (1 << 64) - 1, 65536) == b""
    assert read(program, RAM, 0) == b""
    assert len(read(program, RAM, 65536)) == 65536


def test_memory_as_the_processor_sees_it(program: Program) -> None:
    assert read(program, RAM, 8, **{"cpu-index": 0}) == read(program, RAM, 8)
    assert program.qmp.command("x-translate-address", address=RAM) == {"physical": RAM}


def test_registers_of_devices_are_read(program: Program) -> None:
    # Line status: transmitter empty, in every byte-wide access.
    assert read(program, UART + 5, 1) == b"\x60"


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("x-query-registers", {"cpu-index": 1}, "Parameter 'cpu-index' expects a CPU number"),
        ("x-read-memory", {"address": 0, "size": 1, "cpu-index": -1}, "Parameter 'cpu-index' expects a CPU number"),
        ("x-read-memory", {"address": 0, "size": 65537}, "Parameter 'size' expects at most 65536"),
        ("x-set-log", {"items": ["nope"]}, "Parameter 'null' does not accept value 'nope'"),
        (
            "x-set-log",
            {"filename": "/nonexistent/file"},
            "Error opening logfile /nonexistent/file: No such file or directory",
        ),
        ("human-monitor-command", {"command-line": "x 0", "cpu-index": 9}, "Parameter 'cpu-index' expects a CPU number"),
    ],
)  # fmt: skip
def test_errors(program: Program, command: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(QmpError) as caught:
        program.qmp.command(command, arguments)
    assert str(caught.value) == said


def test_the_address_space_has_no_overlaps_and_names_owners(program: Program) -> None:
    regions = program.qmp.command("x-query-mtree")
    ends = [each["base"] + each["size"] for each in regions]
    assert all(end <= after["base"] for end, after in zip(ends, regions[1:], strict=False))
    [serial] = [each for each in regions if each["base"] == UART]
    assert serial["kind"] == "mmio"
    assert program.qmp.command("qom-get", path=serial["owner"], property="type") == "serial-mm"
    [ram] = [each for each in regions if each["base"] == RAM]
    assert (ram["name"], ram["size"], ram["kind"]) == ("riscv_virt_board.ram", 64 << 20, "ram")


def test_devices_and_buses(program: Program) -> None:
    [bus] = program.qmp.command("x-query-qtree")
    assert (bus["name"], bus["type"]) == ("main-system-bus", "System")
    by_driver = {device["driver"]: device for device in bus["devices"]}
    uart = by_driver["serial-mm"]
    assert uart["irqs"] == 1
    assert {"name": "regshift", "type": "uint8", "value": 0} in uart["properties"]
    assert [below["type"] for below in by_driver["virtio-mmio"]["buses"]] == ["virtio-mmio-bus"]
    for device in bus["devices"]:
        assert program.qmp.command("qom-get", path=device["path"], property="type") == device["driver"]


def test_the_log_is_switched_on_and_moved(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert not any(each["enabled"] for each in program.qmp.command("x-query-log"))
    program.qmp.command("x-set-log", items=["guest_errors"], filename=str(path))
    assert {each["name"] for each in program.qmp.command("x-query-log") if each["enabled"]} == {
        "guest_errors"
    }
    program.qmp.command("human-monitor-command", {"command-line": "log none"})
    assert not any(each["enabled"] for each in program.qmp.command("x-query-log"))
    assert path.exists()


def test_nothing_of_it_needs_a_processor(daemon: Starter) -> None:
    program = daemon("-machine", "none", "-display", "none")
    assert program.qmp.command("x-query-mtree") == []
    assert read(program, 0, 16) == b""
    with pytest.raises(QmpError, match="expects a CPU number"):
        program.qmp.command("x-query-registers")

    def say(line: str) -> str:
        said: str = program.qmp.command("human-monitor-command", {"command-line": line})
        return said

    assert say("x 0") == "Can not dump without CPU\r\n"
    assert say("xp 0") == "0000000000000000: Cannot access memory\r\n"
    assert say("info registers") == "No CPU available\r\n"
    assert say("info registers 0") == "CPU#0 not available\r\n"
    assert say("gva2gpa 0") == "No cpu\r\n"
    assert say("memsave 0 1 file") == "No CPU available\r\n"
    assert json.dumps(say("info qtree -b")).startswith('"bus: main-system-bus')

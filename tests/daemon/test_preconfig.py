"""A start that waits for a client: `-preconfig`, the phases, `x-exit-preconfig`."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.table import COMMANDS
from qemud._generated.types.startup import MachinePhase
from qemud.qapi.runtime.table import EARLY, LATE, PHASES
from tests.programs import LIMIT, QEMUD, QmpClient, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

BOARD = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-preconfig")
MEBIBYTES = 64 << 20


def refusal(program: Program, name: str, **arguments: Any) -> str:
    with pytest.raises(QmpError) as caught:
        program.qmp.command(name, **arguments)
    return str(caught.value)


def test_the_phases_of_the_schema_are_those_of_the_table():
    assert tuple(phase.value for phase in MachinePhase) == PHASES
    assert COMMANDS["cont"].phases == LATE
    assert COMMANDS["query-status"].phases == EARLY
    assert all(set(info.phases) <= set(PHASES) for info in COMMANDS.values())


def test_a_machine_is_set_up_by_qmp_alone(daemon: Starter):
    program = daemon(*BOARD, "-S")
    qmp = program.qmp
    assert qmp.command("query-machine-phase") == {"phase": "accel-created"}
    assert qmp.command("query-status") == {"running": False, "status": "prelaunch"}
    assert refusal(program, "cont") == (
        "The command 'cont' is permitted only after machine initialization has completed"
    )
    qmp.command("object-add", **{"qom-type": "memory-backend-ram", "id": "m0", "size": MEBIBYTES})
    qmp.command("qom-set", path="/machine", property="memory-backend", value="m0")
    qmp.command("qom-set", path="/machine", property="aclint", value=True)
    qmp.command("chardev-add", id="c0", backend={"type": "ringbuf", "data": {}})
    qmp.command("chardev-add", id="c1", backend={"type": "null", "data": {}})
    qmp.command("chardev-remove", id="c1")
    qmp.command("device_add", driver="loader", id="l0", addr=0x80000000, data=0x1234, **{"data-len": 4})
    assert qmp.command("query-machine-phase") == {"phase": "machine-initialized"}
    qmp.command("x-exit-preconfig")
    assert qmp.command("query-machine-phase") == {"phase": "machine-ready"}
    assert qmp.command("query-status") == {"running": False, "status": "prelaunch"}
    assert qmp.command("qom-get", path="/machine", property="memory-backend") == "/objects/m0"
    assert qmp.command("qom-get", path="/machine/peripheral/l0", property="data") == 0x1234
    assert qmp.command("qom-get", path="/machine/sswi0", property="sswi") == 1
    assert {chardev["label"] for chardev in qmp.command("query-chardev")} >= {"c0"}
    assert refusal(program, "x-exit-preconfig") == (
        "The command is permitted only before machine initialization"
    )
    assert refusal(program, "object-del", id="m0") == "object 'm0' is in use, can not be deleted"


def test_a_mistake_makes_no_board(daemon: Starter, tmp_path: Path):
    program = daemon(*BOARD, "-S")
    qmp = program.qmp
    assert refusal(program, "device_add") == "Parameter 'driver' is missing"
    assert refusal(program, "device_add", driver="nope") == "'nope' is not a valid device model name"
    assert refusal(program, "device_add", driver="loader", nope=1) == "Property 'loader.nope' not found"
    assert qmp.command("query-machine-phase") == {"phase": "accel-created"}
    # The machine's own properties are still free, and are looked at together when it is made.
    qmp.command("qom-set", path="/machine", property="smp", value={"cpus": 3})
    assert refusal(program, "x-exit-preconfig") == (
        "Invalid SMP CPUs 3. The max CPUs supported by machine 'virt' is 1"
    )
    qmp.command("qom-set", path="/machine", property="smp", value={"cpus": 1})
    qmp.command("qom-set", path="/machine", property="append", value="x")
    assert refusal(program, "x-exit-preconfig") == "-append only allowed with -kernel option"
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bytes(64))
    qmp.command("qom-set", path="/machine", property="kernel", value=str(kernel))
    qmp.command("qom-set", path="/machine", property="memory", value={"size": 2 * MEBIBYTES})
    document = qmp.command("query-config")
    assert (document["paused"], document["machine"]["memory"]) == (True, {"size": 2 * MEBIBYTES})
    qmp.command("x-exit-preconfig")
    assert qmp.command("query-memory-size-summary") == {"base-memory": 2 * MEBIBYTES}


def test_what_is_wrong_can_be_put_right(daemon: Starter, tmp_path: Path):
    missing = tmp_path / "kernel"
    program = daemon(*BOARD, "-kernel", str(missing), "-device", "loader,addr=0x80000000,data=1,data-len=9")
    qmp = program.qmp
    # Whatever needs the board meets the same error, any number of times, and leaves nothing.
    for _ in range(2):
        assert refusal(program, "x-exit-preconfig") == f"could not load kernel '{missing}'"
        assert refusal(program, "device_add", driver="loader") == f"could not load kernel '{missing}'"
    assert qmp.command("query-machine-phase") == {"phase": "accel-created"}
    qmp.command("object-add", **{"qom-type": "memory-backend-ram", "id": "m0", "size": MEBIBYTES})
    qmp.command("qom-set", path="/machine", property="memory-backend", value="m0")
    assert refusal(program, "x-exit-preconfig") == f"could not load kernel '{missing}'"
    missing.write_bytes(bytes(64))
    told = refusal(program, "x-exit-preconfig")
    assert "data-len" in told or "data" in told
    assert qmp.command("query-machine-phase") == {"phase": "machine-initialized"}
    program.qmp.command("quit")
    assert program.qmp.event("SHUTDOWN")["data"]["reason"] == "host-qmp-quit"
    assert program.wait() == 0


def test_the_guest_starts_at_the_end(daemon: Starter):
    program = daemon(*BOARD)
    program.qmp.command("x-exit-preconfig")
    program.qmp.event("RESUME")
    assert program.qmp.command("query-status")["status"] == "running"


def test_a_signal_ends_the_wait(daemon: Starter):
    assert daemon(*BOARD).terminate() == 0


def test_the_waiting_parent_is_told(tmp_path: Path):
    """A daemon's parent returns when clients are served, as QEMU's does: the client has yet to come."""
    address = tmp_path / "qmp"
    listening = ("-daemonize", "-qmp", f"unix:{address},server=on,wait=off")
    done = subprocess.run([QEMUD, *BOARD, *listening], check=False, timeout=LIMIT, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(address))
        client = QmpClient(connection)
        assert client.command("query-machine-phase") == {"phase": "accel-created"}
        client.command("quit")

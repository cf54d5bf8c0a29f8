"""The same serial ports and balloons in Debian's QEMU and in qemud: what is told, what is refused, what comes and goes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import QEMU, QEMUD, QmpError

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-nodefaults")
Script = list[tuple[str, dict[str, Any]]]


def play(program: Program, script: Script) -> list[Any]:
    """The answers."""
    found: list[Any] = []
    for command, arguments in script:
        try:
            answer = program.qmp.command(command, arguments)
        except QmpError as error:
            answer = f"{error.error_class}: {error}"
        if command == "qom-list":  # in no order there
            answer = sorted(answer, key=str)
        found.append((command, arguments, answer))
    return found


def both(daemon: Starter, reference: Starter, script: Script, *options: str) -> tuple[Program, Program]:
    """Two programs that have answered the same."""
    ours, theirs = daemon(*BOARD, *options), reference(*BOARD, *options)
    for here, there in zip(play(ours, script), play(theirs, script), strict=True):
        assert here == there
    return ours, theirs


def null(name: str) -> tuple[str, dict[str, Any]]:
    return "chardev-add", {"id": name, "backend": {"type": "null", "data": {}}}


def port(**more: Any) -> tuple[str, dict[str, Any]]:
    return "device_add", {"driver": "virtserialport", **more}


def get(name: str, prop: str) -> tuple[str, dict[str, Any]]:
    return "qom-get", {"path": f"/machine/peripheral/{name}", "property": prop}


PORTS: Script = [
    *(null(f"c{n}") for n in range(5)),
    port(bus="vs0.0", nr=2, chardev="c0", id="p0", name="org.test.0"),
    port(id="p1", chardev="c1"),
    get("p1", "nr"),
    get("p1", "parent_bus"),
    get("p0", "name"),
    get("p0", "chardev"),
    port(id="p2", nr=1),
    port(id="p2", nr=0),
    port(id="p2", nr=4),
    port(id="p2", nr=-1),
    port(id="p2", name="org.test.0"),
    port(id="p2", chardev="c0"),
    port(id="p2", chardev="none"),
    port(id="p2", bus="none"),
    port(id="p2", bus="virtio-mmio-bus.0"),
    port(id="p1"),
    port(id="p2", nope=1),
    ("device_add", {"driver": "virtio-serial-port", "id": "p2"}),
    ("device_add", {"driver": "virtconsole", "id": "console", "chardev": "c2"}),
    get("console", "nr"),
    ("device_add", {"driver": "virtconsole", "id": "second"}),
    get("second", "nr"),
    port(id="p2"),
    ("chardev-remove", {"id": "c1"}),
    ("device_del", {"id": "p1"}),
    ("device_del", {"id": "p1"}),
    ("qom-list", {"path": "/machine/peripheral"}),
    ("device_del", {"id": "console"}),
    port(id="p3", nr=0),
    ("device_del", {"id": "vs0"}),
]


def test_ports(daemon: Starter, reference: Starter) -> None:
    programs = both(daemon, reference, PORTS, "-device", "virtio-serial-device,max_ports=4,id=vs0")
    deleted = [[program.qmp.event("DEVICE_DELETED")["data"] for _ in range(2)] for program in programs]
    assert deleted[0] == deleted[1]
    for program in programs:
        program.qmp.command("chardev-remove", id="c1")


BALLOON: Script = [
    ("query-balloon", {}),
    ("balloon", {"value": 32 << 20}),
    ("query-balloon", {}),
    ("balloon", {"value": 0}),
    ("balloon", {"value": -5}),
    ("balloon", {}),
    ("human-monitor-command", {"command-line": "info balloon"}),
    ("human-monitor-command", {"command-line": "balloon 16"}),
    ("human-monitor-command", {"command-line": "balloon 1 + 1"}),
    ("human-monitor-command", {"command-line": "balloon -1"}),
    ("human-monitor-command", {"command-line": "balloon 0"}),
    ("human-monitor-command", {"command-line": "balloon"}),
    ("human-monitor-command", {"command-line": "balloon x"}),
    get("b0", "guest-stats"),
    get("b0", "guest-stats-polling-interval"),
    ("qom-set", {"path": "b0", "property": "guest-stats-polling-interval", "value": 10}),
    get("b0", "guest-stats-polling-interval"),
    ("qom-set", {"path": "b0", "property": "guest-stats-polling-interval", "value": -1}),
    ("qom-set", {"path": "b0", "property": "guest-stats-polling-interval", "value": 1 << 32}),
    ("qom-set", {"path": "b0", "property": "guest-stats-polling-interval", "value": "x"}),
    get("b0", "guest-stats-polling-interval"),
    ("qom-set", {"path": "b0", "property": "guest-stats-polling-interval", "value": 0}),
    ("qom-set", {"path": "b0", "property": "deflate-on-oom", "value": True}),
    ("device_add", {"driver": "virtio-balloon-device", "id": "b1"}),
    ("device_del", {"id": "b0"}),
]


def test_balloon(daemon: Starter, reference: Starter) -> None:
    both(daemon, reference, BALLOON, "-device", "virtio-balloon-device,id=b0")


def test_no_balloon(daemon: Starter, reference: Starter) -> None:
    both(daemon, reference, [*BALLOON[:4], BALLOON[6], BALLOON[7]])


WRONG = (
    ("virtio-serial-device,max_ports=0",),
    ("virtio-serial-device,max_ports=512",),
    ("virtserialport",),
    ("virtserialport,nr=0", "virtio-serial-device"),
    ("virtio-serial-device", "virtserialport,nr=0"),
    ("virtio-serial-device", "virtserialport,nr=31"),
    ("virtio-serial-device", "virtserialport,nr=5", "virtserialport,nr=5"),
    ("virtio-serial-device", "virtserialport,name=a", "virtserialport,name=a"),
    ("virtio-serial-device", "virtserialport,chardev=nope"),
    (
        "virtio-serial-device",
        "virtconsole,bus=virtio-serial-bus.0,id=x",
        "virtconsole,bus=virtio-serial-bus.1",
    ),
    ("virtio-balloon-device", "virtio-balloon-device"),
    ("virtio-balloon-device,guest-stats-polling-interval=-1",),
)


@pytest.mark.parametrize("devices", WRONG, ids=" ".join)
def test_what_cannot_be_made(devices: tuple[str, ...]) -> None:
    """What is printed, and what the process ends with."""
    said = []
    for command in (QEMUD, QEMU):
        options = [option for device in devices for option in ("-device", device)]
        run = subprocess.run([command, *BOARD, *options], capture_output=True, text=True, check=False)
        said.append((run.returncode, run.stderr.replace(str(command), "qemu").splitlines()[:1]))
    assert said[0] == said[1]

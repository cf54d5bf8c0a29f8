"""The same PCI devices in Debian's QEMU and in qemud: the same configuration spaces, and the same answers of the monitors."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.programs import QEMU, QEMUD, QmpError

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

BOARD = (
    *("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-nodefaults"),
    *("-blockdev", "driver=null-co,node-name=d0,read-zeroes=on"),
)
DEVICES = (
    "pcie-root-port,id=rp0,chassis=1,port=5,slot=3",
    "virtio-rng-pci,id=r0",
    "virtio-rng-pci-non-transitional,id=r1,multifunction=on,addr=5.0",
    "virtio-rng-pci-transitional,addr=5.1",
    "virtio-rng-pci,addr=0x6,disable-legacy=on,vectors=0,page-per-vq=on,id=r3",
    "virtio-rng-pci,addr=7,disable-modern=on,vectors=5",
    "pcie-root-port,id=rp1,chassis=1,slot=4,hotplug=off,power_controller_present=off,io-reserve=0,mem-reserve=1M,bus-reserve=2",
    "virtio-scsi-pci,id=scsi0,addr=a",
    "virtio-scsi-pci-non-transitional,num_queues=3,addr=b",
    "virtio-net-pci,addr=c,id=net0,mac=52:54:00:12:34:56",
    "virtio-blk-pci,addr=d,drive=d0,num-queues=4,id=disk",
    "virtio-serial-pci,addr=e,id=ser0",
    "virtio-balloon-pci,addr=f,id=balloon0",
    "virtio-serial-pci-non-transitional,addr=10,max_ports=4,vectors=0",
    "virtio-rng-pci,bus=rp0,id=behind",
    "virtio-rng-pci,bus=rp1,addr=0.0",
)
ECAM = 0x3000_0000


def both(daemon: Starter, reference: Starter) -> tuple[Program, Program]:
    programs = []
    for start, more in ((daemon, ""), (reference, ",romfile=")):
        # QEMU looks for a file with a program for the firmware, which Debian has elsewhere.
        devices = (device + more if "net" in device else device for device in DEVICES)
        programs.append(start(*BOARD, *(option for device in devices for option in ("-device", device))))
    return programs[0], programs[1]


def monitor(program: Program, line: str) -> str:
    text: str = program.qmp.command("human-monitor-command", **{"command-line": line})
    return text.replace("\r", "")


def dump(program: Program, function: int) -> dict[int, str]:
    """The words of a function's configuration space that are not zero."""
    words: list[str] = []
    for line in monitor(program, f"xp /1024xw {ECAM + function * 0x1000:#x}").splitlines():
        words += line.partition(":")[2].split()
    return {4 * n: word for n, word in enumerate(words) if word != "0x00000000"}


def test_configuration_spaces(daemon: Starter, reference: Starter) -> None:
    ours, theirs = both(daemon, reference)
    for slot, function in (
        (0, 0),
        (1, 0),
        (2, 0),
        (5, 0),
        (5, 1),
        (6, 0),
        (7, 0),
        (3, 0),
        (4, 0),
        (9, 0),
        (10, 0),
        (11, 0),
        (12, 0),
        (13, 0),
        (14, 0),
        (15, 0),
        (16, 0),
    ):
        at = slot << 3 | function
        assert dump(ours, at) == dump(theirs, at), (slot, function)


def test_what_the_monitors_tell(daemon: Starter, reference: Starter) -> None:
    ours, theirs = both(daemon, reference)
    assert ours.qmp.command("query-pci") == theirs.qmp.command("query-pci")
    assert monitor(ours, "info pci") == monitor(theirs, "info pci")


REFUSED = (
    {"driver": "virtio-rng-pci", "addr": "1.0"},
    {"driver": "virtio-rng-pci", "addr": "20"},
    {"driver": "virtio-rng-pci", "addr": "1.8"},
    {"driver": "virtio-rng-pci", "addr": "x"},
    {"driver": "virtio-rng-pci", "addr": "1.0x"},
    {"driver": "virtio-rng-pci", "bus": "pcie.0"},
    {"driver": "virtio-rng-pci", "bus": "rp1"},
    {"driver": "virtio-rng-pci", "bus": "rp0"},
    {"driver": "virtio-rng-pci", "bus": "rp0", "addr": "0.1"},
    {"driver": "virtio-rng-pci", "bus": "nope"},
    {"driver": "virtio-rng-device", "bus": "rp0"},
    {"driver": "pci-device"},
    {"driver": "gpex-root"},
    {"driver": "gpex-pcihost"},
    {"driver": "pcie-root-port", "chassis": 1, "slot": 4},
    {"driver": "virtio-rng-pci", "disable-legacy": "maybe", "bus": "rp0"},
    {"driver": "virtio-rng-pci-transitional", "disable-legacy": "on", "bus": "rp0"},
)


def test_what_cannot_be_plugged(daemon: Starter, reference: Starter) -> None:
    """While the machine is there, which is when most of it is refused for its bus alone."""
    answers = []
    for program in both(daemon, reference):
        found: list[tuple[object, str, str]] = []
        for arguments in REFUSED:
            with pytest.raises(QmpError) as error:
                program.qmp.command("device_add", **arguments)
            found.append((arguments, error.value.error_class, str(error.value)))
        for name in ("r0", "rp0", "nope", "/machine/unattached"):
            with pytest.raises(QmpError) as error:
                program.qmp.command("device_del", id=name)
            found.append((name, error.value.error_class, str(error.value)))
        answers.append(found)
    assert answers[0] == answers[1]


WRONG = (
    ("virtio-rng-pci,addr=3", "virtio-rng-pci,addr=3,id=x"),
    ("virtio-rng-pci,addr=3,id=a", "virtio-rng-pci,addr=3"),
    ("virtio-rng-pci,addr=3,id=a", "virtio-rng-pci,addr=3.1"),
    ("virtio-rng-pci,addr=3.1,id=a", "virtio-rng-pci,addr=3"),
    ("virtio-rng-pci,addr=0",),
    ("virtio-rng-pci,addr=20",),
    ("virtio-rng-pci,addr=1.9",),
    ("virtio-rng-pci,addr=zz",),
    ("virtio-rng-pci,disable-legacy=on,disable-modern=on",),
    ("virtio-rng-pci,iommu_platform=on",),
    ("virtio-rng-pci,disable-legacy=2",),
    ("virtio-rng-pci,multifunction=2",),
    ("pcie-root-port,chassis=1,slot=1,id=p0", "pcie-root-port,chassis=1,slot=1,id=p1"),
    ("pcie-root-port,pref32-reserve=1M,pref64-reserve=1M",),
    ("pcie-root-port,mem-reserve=4G",),
    ("pcie-root-port,pref32-reserve=4G",),
    ("pcie-root-port,port=256",),
    ("pcie-root-port,id=p0", "virtio-rng-device,bus=p0"),
    ("pci-bridge,id=b",),
    ("pci-bridge,id=b,chassis_nr=256",),
    ("gpex-root",),
    ("virtio-pci",),
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

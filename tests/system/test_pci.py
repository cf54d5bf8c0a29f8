"""Debian's kernel with PCI devices, beside QEMU with the same: it finds, places and uses them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import shell as guest_with_drivers
from tests.system.linux import kernel, run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.differential]

DEVICES = (
    "pcie-root-port,id=rp0,chassis=1",
    "virtio-blk-pci,drive=f0,id=d0,serial=abc",
    "virtio-rng-pci,bus=rp0,id=r0",
    "virtio-scsi-pci,id=s0,addr=8",
    "pcie-pci-bridge,id=br",
    "virtio-rng-pci,bus=br,addr=3,id=r1",
)


def info(program: Program) -> str:
    """What the guest has set up; QEMU's bridge has the registers of a hot-plug controller besides."""
    text: str = program.qmp.command("human-monitor-command", **{"command-line": "info pci"})
    lines = text.replace("\r", "").splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith("      BAR0: 64 bit memory"))


def test_devices_are_found_placed_and_used(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    found = []
    for name, start in (("ours", daemon), ("theirs", reference)):
        disk = tmp_path / name
        disk.write_bytes(b"QEMUDISK" + bytes((8 << 20) - 8))
        options = ["-blockdev", f"driver=file,node-name=f0,filename={disk}"]
        for device in DEVICES:
            options += ["-device", device]
        program = start(*kernel(*options, guest=guest_with_drivers()), serial=True)
        shell(program)
        run(program, "drivers")
        lines = run(
            program, "for i in /sys/bus/pci/devices/*; do cat $i/vendor $i/device $i/class $i/irq; done"
        )
        lines += run(program, "echo; head -c 8 /dev/vda; cat /sys/block/vda/serial")
        lines += run(program, "echo; dd if=/dev/hwrng bs=16 count=2 2>/dev/null | wc -c")
        lines += run(program, "echo; cut -d: -f1 /proc/interrupts; ls /sys/class/scsi_host")
        run(program, "head -c 1048576 /dev/urandom > /tmp/r; cat /tmp/r > /dev/vda; sync; sha256sum /tmp/r")
        found.append((info(program), lines))
        program.qmp.command("quit")
        program.wait()
    assert found[0][0] == found[1][0]
    assert found[0][1] == found[1][1]
    assert "      IRQ 14, pin A\n" in found[0][0]

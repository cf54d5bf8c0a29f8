"""First contact with libvirt: Debian's libvirtd drives qemud, and virsh shows what its users see."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from qemud.demo.debian import PROMPT
from tests.guests import linux
from tests.libvirt import Libvirt, VirshTerminal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("virsh", "libvirtd", "unshare"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a libvirtd of one's own needs root"),
]


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    with Libvirt() as libvirt:
        guest = linux()
        domain = f"""
            <domain type='qemu'>
              <name>rv</name>
              <memory unit='MiB'>256</memory>
              <os>
                <type arch='riscv64' machine='virt'>hvm</type>
                <kernel>{guest.kernel}</kernel>
                <initrd>{guest.initrd}</initrd>
                <cmdline>console=ttyS0</cmdline>
              </os>
              <devices>
                <emulator>{libvirt.emulator}</emulator>
                <serial type='pty'/>
                <memballoon model='none'/>
              </devices>
            </domain>"""
        path = libvirt.work / "domain.xml"
        path.write_text(domain)
        libvirt.virsh("define", str(path))
        yield libvirt


@pytest.fixture
def running(libvirt: Libvirt) -> Iterator[Libvirt]:
    """The domain, started; destroyed behind the test."""
    libvirt.virsh("start", "rv")
    yield libvirt
    if libvirt.virsh("list", "--name"):
        libvirt.virsh("destroy", "rv")


def test_libvirt_learns_what_the_emulator_can_do(libvirt: Libvirt):
    found = ET.fromstring(
        libvirt.virsh(
            "domcapabilities",
            *("--emulatorbin", str(libvirt.emulator), "--arch", "riscv64"),
            *("--virttype", "qemu", "--machine", "virt"),
        )
    )
    assert found.findtext("domain") == "qemu"
    assert found.findtext("machine") == "virt-10.0"
    assert found.findtext("arch") == "riscv64"


def test_a_guest_is_stopped_resumed_reset_and_asked_about(running: Libvirt):
    assert running.virsh("domstate", "rv") == "running"
    assert "UUID:" in running.virsh("dominfo", "rv")
    running.virsh("suspend", "rv")
    assert running.virsh("domstate", "rv") == "paused"
    running.virsh("resume", "rv")
    assert running.virsh("domstate", "rv") == "running"
    running.virsh("reset", "rv")
    vcpu = running.virsh("vcpuinfo", "rv")
    assert "State:          running" in vcpu
    assert "CPU time:" in vcpu
    status = json.loads(running.virsh("qemu-monitor-command", "rv", '{"execute": "query-status"}'))
    assert status["return"] == {"running": True, "status": "running"}
    assert running.virsh("qemu-monitor-command", "rv", "--hmp", "info status") == "VM status: running"


def test_the_console_leads_to_the_shell_and_the_guest_switches_itself_off(running: Libvirt):
    with VirshTerminal(running, "event", "rv", "--event", "lifecycle", "--loop", "--timestamp") as events:
        with VirshTerminal(running, "console", "rv") as console:
            console.expect("Escape character")
            console.expect(PROMPT)
            console.type("echo $((6 * 7))\r")
            console.expect("\n42\r")
            console.expect(PROMPT)
            console.type("poweroff -f\r")
            console.expect("Power down")
        events.expect("Shutdown Finished")
        events.expect("Stopped")
    assert running.virsh("domstate", "rv", "--reason") == "shut off (shutdown)"


def test_a_restarted_libvirtd_finds_its_guest_again_and_ends_it(running: Libvirt):
    before = running.virsh("domid", "rv")
    running.stop()
    running.start()
    assert running.virsh("domid", "rv") == before
    assert running.virsh("domstate", "rv") == "running"
    running.virsh("destroy", "rv")
    assert running.virsh("domstate", "rv", "--reason") == "shut off (destroyed)"
    assert "terminating on signal 15 from pid" in running.last_words()


def test_an_emulator_that_cannot_start_says_why(libvirt: Libvirt):
    good = libvirt.work / "domain.xml"
    bad = libvirt.work / "bad.xml"
    bad.write_text(
        good.read_text().replace("<name>rv<", "<name>bad<").replace("<kernel>", "<kernel>/nonexistent")
    )
    libvirt.virsh("define", str(bad))
    with pytest.raises(AssertionError, match="could not load kernel '/nonexistent"):
        libvirt.virsh("start", "bad")
    libvirt.virsh("undefine", "bad")

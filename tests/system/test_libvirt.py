"""First contact with libvirt: Debian's libvirtd drives qemud, and virsh shows what its users see."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from qemud.demo.debian import PROMPT
from tests.guests import linux
from tests.hw.core import Core
from tests.hw.kdump import Kdump, assembled
from tests.libvirt import Libvirt, VirshTerminal
from tests.programs import LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qemud.demo.debian import Guest

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("virsh", "libvirtd", "unshare"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a libvirtd of one's own needs root"),
]


def describe(
    libvirt: Libvirt,
    name: str,
    devices: str = "<serial type='pty'/>",
    more: str = "",
    guest: Guest | None = None,
) -> Path:
    """The XML of a domain, in a file."""
    guest = guest or linux()
    path = libvirt.work / f"{name}.xml"
    path.write_text(f"""
        <domain type='qemu'>
          <name>{name}</name>
          <memory unit='MiB'>256</memory>
          <os>
            <type arch='riscv64' machine='virt'>hvm</type>
            <kernel>{guest.kernel}</kernel>
            <initrd>{guest.initrd}</initrd>
            <cmdline>console=ttyS0</cmdline>
          </os>
          {more}
          <devices>
            <emulator>{libvirt.emulator}</emulator>
            {devices}
            <memballoon model='none'/>
          </devices>
        </domain>""")
    return path


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    with Libvirt() as libvirt:
        libvirt.virsh("define", str(describe(libvirt, "rv")))
        yield libvirt


@contextmanager
def started(
    libvirt: Libvirt, name: str, devices: str = "<serial type='pty'/>", more: str = ""
) -> Iterator[None]:
    """A domain that is gone when it is destroyed, as it is behind the test."""
    libvirt.virsh("create", str(describe(libvirt, name, devices, more)))
    try:
        yield
    finally:
        if name in libvirt.virsh("list", "--name").split():
            libvirt.virsh("destroy", name)


@pytest.fixture
def running(libvirt: Libvirt) -> Iterator[Libvirt]:
    """The domain, started; destroyed behind the test."""
    libvirt.virsh("start", "rv")
    yield libvirt
    if libvirt.virsh("list", "--name"):
        libvirt.virsh("destroy", "rv")


@pytest.fixture(scope="module")
def one_for_all(libvirt: Libvirt) -> Iterator[Libvirt]:
    """A domain, started once for several tests that leave it as it is."""
    with started(libvirt, "one"):
        yield libvirt


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
    # Waits until libvirtd has its monitor again: a domain destroyed before that is an error ("domain is not running").
    assert running.virsh("qemu-monitor-command", "rv", "--hmp", "info status") == "VM status: running"
    running.virsh("destroy", "rv")
    assert running.virsh("domstate", "rv", "--reason") == "shut off (destroyed)"
    assert "terminating on signal 15 from pid" in running.last_words()


def test_a_paused_guest_stays_paused_when_libvirtd_restarts(running: Libvirt):
    running.virsh("suspend", "rv")
    running.stop()
    running.start()
    assert running.virsh("domstate", "rv", "--reason") == "paused (user)"
    running.virsh("resume", "rv")
    with VirshTerminal(running, "console", "rv") as console:
        console.expect("Escape character")
        console.expect(PROMPT)


def test_a_guest_that_resets_itself_comes_again(running: Libvirt):
    with VirshTerminal(running, "event", "rv", "--event", "reboot", "--loop") as events:
        with VirshTerminal(running, "console", "rv") as console:
            console.expect(PROMPT)
            console.type("reboot -f\r")
            console.expect("Linux version")
        events.expect("'reboot' for domain 'rv'")
    assert running.virsh("domstate", "rv", "--reason") == "running (booted)"


def test_a_reset_can_be_an_end(running: Libvirt):
    """libvirt says so by `set-action`; the guest is seen to have shut down."""
    running.virsh("set-lifecycle-action", "rv", "reboot", "destroy", "--live")
    running.virsh("reset", "rv")
    deadline = time.monotonic() + LIMIT
    while (state := running.virsh("domstate", "rv", "--reason")) != "shut off (shutdown)":
        assert time.monotonic() < deadline, state


def test_memory_is_dumped_and_a_watchdog_waits(libvirt: Libvirt):
    """With the guest running: it goes on when its memory has been written."""
    with started(libvirt, "dog", devices="<serial type='pty'/><watchdog model='i6300esb' action='pause'/>"):
        path = libvirt.work / "core"
        libvirt.virsh("dump", "--memory-only", "--live", "dog", str(path))
        assert libvirt.virsh("domstate", "dog") == "running"
        core = Core(path.read_bytes())
        assert core.loads[-1].in_memory == 256 << 20
        assert len(core.registers()) == 1
        libvirt.virsh("dump", "--memory-only", "--live", "--format", "kdump-zlib", "dog", str(path))
        assert len(Kdump(assembled(path.read_bytes())).pages) * 4096 > 256 << 20
        tree = libvirt.virsh("qemu-monitor-command", "dog", "--hmp", "info qtree")
        assert 'dev: i6300esb, id "watchdog0"' in tree
        libvirt.virsh("qemu-monitor-command", "dog", "--hmp", "watchdog_action none")


def test_a_power_button_that_nobody_minds(running: Libvirt):
    running.virsh("shutdown", "rv", "--mode", "acpi")
    assert running.virsh("domstate", "rv") == "running"


def test_what_is_told_of_a_guest(one_for_all: Libvirt):
    one_for_all.virsh("vcpupin", "one", "0", "0")
    assert re.search(r"CPU Affinity: +y-*$", one_for_all.virsh("vcpuinfo", "one"))
    told = one_for_all.virsh("domstats", "one")
    assert "state.state=1" in told
    assert "vcpu.0.time=" in told
    assert one_for_all.virsh("ttyconsole", "one").startswith("/dev/pts/")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inject-nmi", "one"), "machine does not provide NMIs"),
        (("dompmwakeup", "one"), "wake-up from suspend is not supported by this guest"),
        (("qemu-monitor-command", "one", "nonsense"), "The command nonsense has not been found"),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_what_is_not_there_is_refused_in_a_sentence(one_for_all: Libvirt, words: tuple[str, ...], said: str):
    """And at once: libvirt has no limits of time. The guest goes on."""
    try:
        told = one_for_all.virsh(*words)
    except AssertionError as error:
        told = str(error)
    assert said in told
    assert one_for_all.virsh("domstate", "one") == "running"


@pytest.mark.parametrize(
    "serial",
    [
        "<serial type='file'><source path='{place}' append='on'/></serial>",
        "<serial type='pty'><log file='{place}' append='on'/></serial>",
        "<serial type='unix'><source mode='bind' path='{place}.s'/><log file='{place}' append='on'/></serial>",
    ],
    ids=["a file", "a terminal with a log", "a socket with a log"],
)
def test_what_a_guest_says_is_appended_to_a_file(libvirt: Libvirt, serial: str):
    """It is in a set of descriptors: libvirt has opened it, and the emulator is told of `/dev/fdset/0`."""
    place = libvirt.work / "said"
    place.write_text("before\n")
    with started(libvirt, "said", devices=serial.format(place=place)):
        _wait_for(place, b"Linux version")
    assert place.read_bytes().startswith(b"before\n")


def _wait_for(path: Path, text: bytes) -> None:
    with subprocess.Popen(["tail", "-c", "+1", "-F", path], stdout=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        try:
            assert any(text in line for line in tail.stdout)
        finally:
            tail.terminate()


@pytest.mark.parametrize(
    "more",
    [
        "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        "<memoryBacking><source type='file'/></memoryBacking>",
        "<iothreads>2</iothreads>",
        "<clock offset='localtime'/>",
        "<clock offset='variable' adjustment='100'/>",
        "<features><acpi/></features>",
        "<features><tcg><tb-cache unit='MiB'>64</tb-cache></tcg></features>",
        "<on_crash>preserve</on_crash>",
    ],
)
def test_other_words_for_the_emulator(libvirt: Libvirt, more: str):
    with started(libvirt, "other", more=more):
        assert libvirt.virsh("domstate", "other", "--reason") == "running (booted)"


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("<tpm><backend type='passthrough'/></tpm>", "TPM backend type passthrough"),
        ("<watchdog model='diag288'/>", "diag288"),
    ],
    ids=["tpm", "watchdog"],
)
def test_devices_that_are_not_there_are_named(libvirt: Libvirt, devices: str, said: str):
    with pytest.raises(AssertionError, match=said), started(libvirt, "more", devices=devices):
        pass


def test_an_emulator_that_cannot_start_says_why(libvirt: Libvirt):
    good = describe(libvirt, "rv")
    bad = libvirt.work / "bad.xml"
    bad.write_text(
        good.read_text().replace("<name>rv<", "<name>bad<").replace("<kernel>", "<kernel>/nonexistent")
    )
    libvirt.virsh("define", str(bad))
    with pytest.raises(AssertionError, match="could not load kernel '/nonexistent"):
        libvirt.virsh("start", "bad")
    libvirt.virsh("undefine", "bad")

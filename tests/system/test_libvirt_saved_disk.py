"""libvirt saves a running domain that works on its disk, restores it, and dumps its memory; the guest goes on where it was."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from qemud.demo.debian import PROMPT
from tests.guests.disk import COMPILER
from tests.guests.disk import shell as shell_guest
from tests.hw.core import Core
from tests.libvirt import Libvirt, VirshTerminal
from tests.system.debian import check_image
from tests.system.test_libvirt import describe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("virsh", "libvirtd", "unshare", "nsenter", "qemu-img", COMPILER),
    pytest.mark.skipif(os.geteuid() != 0, reason="a libvirtd of one's own needs root"),
]

NAME = "disk"
COUNTER = (
    "echo 0 > /count; while :; do echo $(($(cat /count) + 1)) > /next; mv /next /count; sleep 0.1; done &"
)
"""Goes on in the background, in RAM."""
WRITE = "dd if=/dev/urandom of=/dev/vda bs=1M count=2 conv=fsync; sha256sum < /dev/vda > /sum"


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    with Libvirt() as libvirt:
        yield libvirt


def ask(console: VirshTerminal, command: str) -> str:
    """What a command prints at the guest's prompt, behind a word of ours."""
    console.type(f"echo an''swer $({command}) end\r")
    console.expect("answer ")
    found = console.expect(" end\r").removesuffix(" end\r")
    console.expect(PROMPT)
    return found


def count(console: VirshTerminal) -> int:
    """How far the guest has counted, when it has counted further than a moment ago."""
    before = ask(console, "cat /count")
    while (now := ask(console, "cat /count")) == before:
        pass
    return int(now)


def goes_on(libvirt: Libvirt, before: int) -> int:
    """The guest has what it had, on its disk, too, and counts on from there, and writes something else; how far."""
    with VirshTerminal(libvirt, "console", NAME) as console:
        console.expect("Escape character")
        console.type("\r")
        console.expect(PROMPT)
        assert ask(console, "echo $x; cat /file") == "variable file"
        now = count(console)
        assert now >= before
        assert ask(console, "sha256sum < /dev/vda") == ask(console, "cat /sum")
        assert ask(console, "dmesg | grep -c -e Oops -e BUG: -e 'I/O error' -e stall") == "0"
        assert ask(console, f"{WRITE}; echo written") == "written"
    return now


@pytest.fixture(scope="module")
def image(libvirt: Libvirt) -> Iterator[Path]:
    """The disk of a domain that runs before and after each test; its guest counts, and has something in a variable, in RAM and on its disk."""
    path = libvirt.work / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "4M"], check=True)
    devices = f"""
        <serial type='pty'/>
        <disk type='file' device='disk'>
          <driver name='qemu' type='qcow2'/>
          <source file='{path}'/>
          <target dev='vda' bus='virtio'/>
        </disk>"""
    libvirt.virsh("define", str(describe(libvirt, NAME, devices=devices, guest=shell_guest())))
    libvirt.virsh("start", NAME)
    with VirshTerminal(libvirt, "console", NAME) as console:
        console.expect(PROMPT)
        for line in (
            "drivers",
            "x=variable; echo file > /file",
            WRITE,
            COUNTER,
        ):
            console.type(f"{line}\r")
            console.expect(PROMPT)
    yield path
    if NAME in libvirt.virsh("list", "--name").split():
        libvirt.virsh("destroy", NAME)
    libvirt.virsh("undefine", NAME)


def test_saved_and_restored(libvirt: Libvirt, image: Path) -> None:
    before, path = goes_on(libvirt, 0), libvirt.work / "state"
    libvirt.virsh("save", NAME, str(path))
    assert libvirt.virsh("domstate", NAME, "--reason") == "shut off (saved)"
    check_image(image)
    libvirt.virsh("restore", str(path))
    assert libvirt.virsh("domstate", NAME, "--reason") == "running (restored)"
    before = goes_on(libvirt, before)

    libvirt.virsh("managedsave", NAME)
    assert libvirt.virsh("list", "--all", "--name", "--with-managed-save") == NAME
    check_image(image)
    libvirt.virsh("start", NAME)
    before = goes_on(libvirt, before)

    # One that was paused is paused, and one that is to be paused is.
    libvirt.virsh("suspend", NAME)
    libvirt.virsh("save", NAME, str(path))
    libvirt.virsh("restore", str(path))
    assert libvirt.virsh("domstate", NAME) == "paused"
    libvirt.virsh("save", NAME, str(path), "--running")
    libvirt.virsh("restore", str(path))
    goes_on(libvirt, before)


def test_dumped(libvirt: Libvirt, image: Path) -> None:
    """Its memory, or all of it: the domain goes on."""
    assert image.exists()
    before, path = goes_on(libvirt, 0), libvirt.work / "core"
    libvirt.virsh("dump", "--memory-only", NAME, str(path))
    core = Core(path.read_bytes())
    assert core.loads[-1].in_memory == 256 << 20
    assert len(core.registers()) == 1
    assert libvirt.virsh("domstate", NAME) == "running"
    before = goes_on(libvirt, before)
    for live in ((), ("--live",)):
        libvirt.virsh("dump", *live, NAME, str(path))
        assert path.stat().st_size > 1 << 20
        assert libvirt.virsh("domstate", NAME) == "running"
    goes_on(libvirt, before)


def test_no_space(libvirt: Libvirt, image: Path) -> None:
    """A file that cannot be written to its end: the domain goes on, with its disk, and can be saved elsewhere."""
    before, folder = goes_on(libvirt, 0), libvirt.work / "small"
    folder.mkdir()
    libvirt.inside("mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", str(folder))
    with pytest.raises(AssertionError, match=r"Unable to write to file: Broken pipe"):
        libvirt.virsh("save", NAME, str(folder / "state"))
    assert libvirt.virsh("domstate", NAME) == "running"
    before = goes_on(libvirt, before)
    libvirt.virsh("managedsave", NAME)
    check_image(image)
    libvirt.virsh("start", NAME)
    goes_on(libvirt, before)


def test_kept_outside_of_the_image(libvirt: Libvirt, image: Path) -> None:
    """A snapshot of memory in a file, and of the disk in an overlay, is what the domain was then."""
    first = goes_on(libvirt, 0)
    state, overlay = libvirt.work / "memory", libvirt.work / "overlay.qcow2"
    libvirt.virsh(
        *("snapshot-create-as", NAME, "then", "--live"),
        *("--memspec", f"file={state},snapshot=external", "--diskspec", f"vda,file={overlay}"),
    )
    goes_on(libvirt, goes_on(libvirt, first))
    libvirt.virsh("destroy", NAME)
    check_image(image)
    check_image(overlay)
    libvirt.virsh("snapshot-delete", NAME, "then", "--metadata")
    libvirt.virsh("restore", str(state))
    assert first <= goes_on(libvirt, first)

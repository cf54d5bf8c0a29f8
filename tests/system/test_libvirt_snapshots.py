"""libvirt takes snapshots of a running domain inside of its image, goes back to them, running and shut off, and deletes them."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from qemud.demo.debian import PROMPT
from tests.libvirt import Libvirt, VirshTerminal
from tests.system.test_libvirt import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("virsh", "libvirtd", "unshare", "qemu-img"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a libvirtd of one's own needs root"),
]

NAME = "kept"


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    with Libvirt() as libvirt:
        yield libvirt


def names(libvirt: Libvirt) -> list[tuple[str, bool]]:
    """The snapshots in the image, and whether they have a state."""
    image = libvirt.work / "disk.qcow2"
    done = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", str(image)], capture_output=True, check=True
    )
    return [
        (each["name"], each["vm-state-size"] > 0) for each in json.loads(done.stdout).get("snapshots", [])
    ]


def says(libvirt: Libvirt, text: str) -> None:
    """The guest's shell has that in its variable."""
    with VirshTerminal(libvirt, "console", NAME) as console:
        console.expect("Escape character")
        console.type("\recho $x.\r")
        console.expect(f"\n{text}.\r")


def test_a_domain_goes_back(libvirt: Libvirt) -> None:
    image = libvirt.work / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "16M"], check=True)
    devices = f"""
        <serial type='pty'/>
        <disk type='file' device='disk'>
          <driver name='qemu' type='qcow2'/>
          <source file='{image}'/>
          <target dev='vda' bus='virtio'/>
        </disk>"""
    libvirt.virsh("define", str(describe(libvirt, NAME, devices=devices)))
    libvirt.virsh("start", NAME)
    with VirshTerminal(libvirt, "console", NAME) as console:
        console.expect(PROMPT)
        console.type("x=one\r")
        console.expect(PROMPT)
        libvirt.virsh("snapshot-create-as", NAME, "first")
        assert libvirt.virsh("domstate", NAME) == "running"
        console.type("x=two\r")
        console.expect(PROMPT)
        libvirt.virsh("snapshot-create-as", NAME, "second")
    # libvirt goes back by starting the emulator anew, with -loadvm.
    libvirt.virsh("snapshot-revert", NAME, "first")
    says(libvirt, "one")
    assert names(libvirt) == [("first", True), ("second", True)]
    libvirt.virsh("destroy", NAME)
    libvirt.virsh("snapshot-revert", NAME, "second", "--running")
    says(libvirt, "two")
    libvirt.virsh("snapshot-delete", NAME, "first")
    assert libvirt.virsh("snapshot-list", NAME, "--name").split() == ["second"]
    assert names(libvirt) == [("second", True)]
    libvirt.virsh("destroy", NAME)
    subprocess.run(["qemu-img", "check", "-q", str(image)], check=True)

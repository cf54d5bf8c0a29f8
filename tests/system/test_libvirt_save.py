"""libvirt saves a running domain into a file and brings it back, and moves it to another libvirtd: all of it by migration."""

from __future__ import annotations

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

NAME = "moved"


@pytest.fixture
def domain() -> Iterator[Libvirt]:
    """A domain with a disk, whose shell has something in a variable."""
    with Libvirt() as libvirt:
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
            console.type("x=kept\r")
            console.expect(PROMPT)
        yield libvirt
        libvirt.virsh("destroy", NAME)
        subprocess.run(["qemu-img", "check", "-q", str(image)], check=True)


def still_there(libvirt: Libvirt) -> None:
    assert libvirt.virsh("domstate", NAME) == "running"
    with VirshTerminal(libvirt, "console", NAME) as console:
        console.expect("Escape character")
        console.type("\recho $x.\r")
        console.expect("\nkept.\r")


def test_saved_and_restored(domain: Libvirt) -> None:
    """Twice from the same file, running and paused."""
    path = domain.work / "saved"
    domain.virsh("save", NAME, str(path))
    assert domain.virsh("domstate", NAME) == "shut off"
    assert "<name>moved</name>" in domain.virsh("save-image-dumpxml", str(path))
    domain.virsh("restore", str(path))
    still_there(domain)
    domain.virsh("destroy", NAME)
    domain.virsh("restore", "--paused", str(path))
    assert domain.virsh("domstate", NAME) == "paused"
    domain.virsh("resume", NAME)
    still_there(domain)


def test_managed_and_by_memory(domain: Libvirt) -> None:
    """What `start` brings back; and a snapshot whose memory is in a file of its own."""
    domain.virsh("managedsave", NAME)
    assert domain.virsh("list", "--all", "--with-managed-save", "--name").split() == [NAME]
    domain.virsh("start", NAME)
    still_there(domain)
    memory = domain.work / "memory"
    domain.virsh(
        "snapshot-create-as", NAME, "whole", "--memspec", f"file={memory}", "--diskspec", "vda,snapshot=no"
    )
    assert memory.stat().st_size > 1 << 20
    still_there(domain)
    dump = domain.work / "dump"
    domain.virsh("dump", "--live", NAME, str(dump))
    assert dump.stat().st_size > 1 << 20
    still_there(domain)
    domain.virsh("snapshot-delete", NAME, "whole", "--metadata")


@pytest.mark.parametrize(
    "options", [(), ("--p2p",), ("--suspend",)], ids=["direct", "peer to peer", "suspended"]
)
def test_to_another_host(domain: Libvirt, options: tuple[str, ...]) -> None:
    """There, and back again; the disk's image is the same, and one of them has it."""
    with Libvirt() as other:
        ways = ((domain, other), (other, domain))
        for here, there in ways:
            here.virsh(
                "migrate", "--live", "--unsafe", *options, NAME, there.uri, "--migrateuri", "tcp://127.0.0.1"
            )
            if "--suspend" in options:
                assert there.virsh("domstate", NAME) == "paused"
                there.virsh("resume", NAME)
            still_there(there)
            assert NAME not in here.virsh("list", "--name").split()

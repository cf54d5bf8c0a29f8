"""What `x-query-virtio-status` and its kin tell of devices that Linux uses: as much as QEMU tells with the same kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.guests.disk import shell as shell_guest
from tests.programs import QmpError
from tests.system.linux import kernel, run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.differential]

RAM, RAM_END = 0x8000_0000, 0x9000_0000
DEVICES = (
    *("-device", "virtio-rng-device,id=rng"),
    *("-device", "virtio-blk-device,drive=d0,id=disk,num-queues=2"),
    *("-device", "virtio-balloon-device,id=balloon"),
    *("-netdev", "hubport,hubid=0,id=n0"),
    *("-device", "virtio-net-device,netdev=n0,id=net,mac=52:54:00:12:34:56,gso=off"),
    *("-device", "virtio-blk-pci,drive=d1,id=function,addr=3"),
)
SAME = ("name", "queue-index", "vring-num", "vring-num-default", "vring-align")
"""What of a queue does not depend on where the kernel puts things, and on how fast it is."""


def boot(starter: Starter, folder: Path, *options: str) -> Program:
    disks = []
    for name in ("d0", "d1"):
        image = folder / name
        image.write_bytes(bytes(1 << 20))
        disks += ["-drive", f"file={image},format=raw,if=none,id={name},file.locking=off"]
    program = starter(*kernel(*options, *disks, *DEVICES, guest=shell_guest()), serial=True)
    shell(program)
    run(program, "drivers")
    # Requests that are done, so that the device has none.
    run(program, "dd if=/dev/vda of=/dev/null bs=4k count=20 iflag=direct; true")
    return program


@pytest.mark.parametrize(
    "slots", [(), ("-global", "virtio-mmio.force-legacy=false")], ids=["legacy", "modern"]
)
def test_devices_in_use(daemon: Starter, reference: Starter, tmp_path: Path, slots: tuple[str, ...]) -> None:
    ours, theirs = boot(daemon, tmp_path, *slots), boot(reference, tmp_path, *slots)
    paths = sorted(info["path"] for info in ours.qmp.command("x-query-virtio"))
    assert paths == sorted(info["path"] for info in theirs.qmp.command("x-query-virtio"))
    assert len(paths) == 5
    for path in paths:
        status = [program.qmp.command("x-query-virtio-status", path=path) for program in (ours, theirs)]
        assert status[0] == status[1]
        assert status[0]["started"] is True
        for number in range(status[0]["num-vqs"]):
            queues = [queue(program, path, number) for program in (ours, theirs)]
            assert {key: queues[0][key] for key in SAME} == {key: queues[1][key] for key in SAME}
            places = [each["vring-desc"] for each in queues]
            if any(places):  # the driver uses it
                assert all(RAM <= place < RAM_END for place in places)
                element(ours, path, number)


def queue(program: Program, path: str, number: int) -> dict[str, Any]:
    found: dict[str, Any] = program.qmp.command("x-query-virtio-queue-status", path=path, queue=number)
    return found


def element(program: Program, path: str, number: int) -> None:
    """The last request that the driver has written, if there was one, is of pieces of memory."""
    index = queue(program, path, number)["last-avail-idx"]
    arguments = {"path": path, "queue": number, "index": (index - 1) & 0xFFFF}
    try:
        found = program.qmp.command("x-query-virtio-queue-element", arguments)
    except QmpError:
        assert not index
        return
    if index:
        assert found["descs"]
        assert found["avail"]["idx"] >= found["used"]["idx"] or found["used"]["idx"] > 0x8000
        assert all(each["len"] for each in found["descs"])

"""What `x-query-virtio` and its kin tell: the same as Debian's QEMU of the same devices, and of requests that a driver has written."""

from __future__ import annotations

import asyncio
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from qemud.hw.virtio.feature_names import DEVICES, STATUSES, TRANSPORT, decode
from qemud.hw.virtio.inspection import VirtioInspectionHandlers
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.wire import to_wire
from qemud.qom.tree import Tree
from tests.hw.virtio.driver import BUFFERS, INDIRECT, INDIRECT_DESC, NEXT, WRITE
from tests.hw.virtio.rig import Rig
from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-nodefaults")
DISK = ("-blockdev", "driver=null-co,node-name=d0,read-zeroes=on")
# `gso` promises a network that takes large frames; QEMU tells so without one, too.
SLOTS = (
    "virtio-rng-device,id=r0",
    "virtio-blk-device,id=disk,drive=d0,num-queues=3,queue-size=64",
    "virtio-net-device,id=net,mac=52:54:00:12:34:56,gso=off,mq=on",
    "virtio-serial-device,id=ser,max_ports=5",
    "virtio-balloon-device,id=bal,deflate-on-oom=on",
    "virtio-scsi-device,id=scsi,num_queues=2",
    "virtio-rng-device,packed=on",
)
FUNCTIONS = (
    "virtio-rng-pci,id=r0",
    "virtio-blk-pci-non-transitional,id=disk,drive=d0",
    "virtio-net-pci,id=net,mac=52:54:00:12:34:56,gso=off,romfile=",
    "virtio-serial-pci,id=ser",
    "virtio-balloon-pci,id=bal,free-page-reporting=on",
    "virtio-scsi-pci,id=scsi",
    "virtio-scsi-pci-transitional,num_queues=1",
    "virtio-rng-pci,disable-modern=on",
)
MODERN = ("-global", "virtio-mmio.force-legacy=false")


def options(devices: tuple[str, ...], *, romfile: bool = True) -> list[str]:
    words = []
    for device in devices:
        words += ["-device", device if romfile else device.replace(",romfile=", "")]
    return words


def ask(program: Program, command: str, **arguments: Any) -> Any:
    try:
        return program.qmp.command(command, arguments)
    except QmpError as error:
        return f"{error.error_class}: {error}"


def hmp(program: Program, line: str) -> Any:
    return ask(program, "human-monitor-command", **{"command-line": line})


def devices(program: Program) -> list[tuple[str, str]]:
    """Paths and names; QEMU has them in no order."""
    return sorted((info["path"], info["name"]) for info in program.qmp.command("x-query-virtio"))


def same(ours: Program, theirs: Program, command: str, **arguments: Any) -> Any:
    answer = ask(ours, command, **arguments)
    assert (command, arguments, answer) == (command, arguments, ask(theirs, command, **arguments))
    return answer


def same_line(ours: Program, theirs: Program, line: str) -> None:
    assert (line, hmp(ours, line)) == (line, hmp(theirs, line))


@pytest.mark.differential
@pytest.mark.parametrize(
    ("more", "made"), [((), SLOTS), (MODERN, SLOTS), ((), FUNCTIONS)], ids=["legacy", "modern", "pci"]
)
def test_the_same_as_qemu_tells(
    daemon: Starter, reference: Starter, more: tuple[str, ...], made: tuple[str, ...]
) -> None:
    ours = daemon(*BOARD, *DISK, *more, *options(made, romfile=False))
    theirs = reference(*BOARD, *DISK, *more, *options(made))
    found = devices(ours)
    assert found == devices(theirs)
    assert len(found) == len(made)
    for path, _ in found:
        status = same(ours, theirs, "x-query-virtio-status", path=path)
        same_line(ours, theirs, f"info virtio-status {path}")
        for queue in range(status["num-vqs"] + 2):
            same(ours, theirs, "x-query-virtio-queue-status", path=path, queue=queue)
            same(ours, theirs, "x-query-virtio-queue-element", path=path, queue=queue)
        same_line(ours, theirs, f"info virtio-queue-status {path} 0")
        same_line(ours, theirs, f"info virtio-queue-status {path} 1024")
        same_line(ours, theirs, f"info virtio-queue-element {path} 0 1")
    for program in (ours, theirs):
        assert sorted(hmp(program, "info virtio").splitlines()) == [
            f"{path} [{name}]" for path, name in found
        ]


@pytest.mark.differential
def test_what_is_no_virtio_device(daemon: Starter, reference: Starter) -> None:
    ours, theirs = daemon(*BOARD, *options(SLOTS[:1])), reference(*BOARD, *options(SLOTS[:1]))
    for path in ("/machine", "/nope", "", "r0", "/machine/peripheral/r0", "virtio-mmio"):
        same(ours, theirs, "x-query-virtio-status", path=path)
        same(ours, theirs, "x-query-virtio-queue-status", path=path, queue=0)
        same(ours, theirs, "x-query-virtio-queue-element", path=path, queue=0)
        same(ours, theirs, "x-query-virtio-queue-element", path=path, queue=0, index=65536)
    for line in ("info virtio-status", "info virtio-status /nope", "info virtio-queue-status /nope 0"):
        same_line(ours, theirs, line)


@pytest.mark.differential
def test_none_at_all(daemon: Starter, reference: Starter) -> None:
    ours, theirs = daemon(*BOARD), reference(*BOARD)
    same(ours, theirs, "x-query-virtio")
    same_line(ours, theirs, "info virtio")


class Inspected(Rig):
    """A disk whose driver writes requests, and the commands that look at them."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        tree = Tree()
        tree.root = self.root
        self.path_of_device = self.device.path
        self.handlers = VirtioInspectionHandlers(SimpleNamespace(tree=tree, vm=self.vm))  # type: ignore[arg-type]
        return self

    async def element(self, index: int | None = None, queue: int = 0) -> dict[str, Any]:
        path = self.path_of_device
        answer: dict[str, Any] = to_wire(
            await self.handlers.x_query_virtio_queue_element(path=path, queue=queue, index=index)
        )
        return answer


def test_a_request_as_the_driver_wrote_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Inspected(tmp_path / "disk", bytes(4096)) as rig:
            await rig.start()
            queue = rig.driver.queues[0]
            pieces = [(BUFFERS, 16, 0), (BUFFERS + 512, 512, WRITE), (BUFFERS + 2048, 1, WRITE)]
            await rig.call(queue.add, pieces)
            answer = await rig.element()
            assert answer["name"] == "virtio-blk"
            assert answer["descs"] == [
                {"addr": BUFFERS + 2048, "len": 1, "flags": ["write"]},
                {"addr": BUFFERS + 512, "len": 512, "flags": ["write", "next"]},
                {"addr": BUFFERS, "len": 16, "flags": ["next"]},
            ]
            assert answer["avail"] == {"flags": 0, "idx": 1, "ring": answer["index"]}
            assert answer["used"]["idx"] == 0
            await rig.call(queue.add, pieces[1:], BUFFERS + 8192)
            assert [desc["addr"] for desc in (await rig.element(1))["descs"]] == [
                BUFFERS + 2048,
                BUFFERS + 512,
            ]
            status = await rig.handlers.x_query_virtio_queue_status(path=rig.path_of_device, queue=0)
            assert (status.vring_desc, status.vring_avail, status.vring_used) == (
                queue.desc,
                queue.avail,
                queue.used_ring,
            )
            state = await rig.handlers.x_query_virtio_status(path=rig.path_of_device)
            assert (state.started, state.vm_running, state.broken) == (True, False, False)
            assert state.status.statuses[0].startswith("VIRTIO_CONFIG_S_ACKNOWLEDGE: ")

    asyncio.run(scene())


HOSTILE = (
    # What the driver writes as the first descriptor, and what is said of it
    ((BUFFERS, 0, INDIRECT, 0), "Invalid size for indirect buffer table"),
    ((0, 4096, INDIRECT, 0), "Cannot map indirect buffer"),
    ((1 << 63, 0xFFFF_FFF0, INDIRECT, 0), "Cannot map indirect buffer"),
    ((BUFFERS, 0xFFFF_FFF0, INDIRECT, 0), "Cannot map indirect buffer"),
)


def test_a_hostile_driver(tmp_path: Path) -> None:
    """Looking is harmless: neither the device nor the emulator is out of order afterwards."""

    async def scene() -> None:
        async with Inspected(tmp_path / "disk", bytes(4096)) as rig:
            await rig.start()
            queue = rig.driver.queues[0]
            for first, said in HOSTILE:
                await rig.call(queue.describe, 0, *first)
                await rig.call(queue._put, queue.avail + 4, "H", 0)
                with pytest.raises(GenericError, match=said):
                    await rig.element()
            # Descriptors in a circle, one that leads nowhere, a first one that there is not.
            await rig.call(queue.describe, 0, BUFFERS, 1, NEXT, 0)
            assert len((await rig.element())["descs"]) == queue.size
            await rig.call(queue.describe, 0, BUFFERS, 1, NEXT, queue.size)
            assert len((await rig.element())["descs"]) == 1
            await rig.call(queue._put, queue.avail + 4, "H", queue.size)
            with pytest.raises(GenericError, match=f"Guest says index {queue.size} is available"):
                await rig.element()
            # A long table in a circle: no list is longer than a request may be.
            table = b"".join(struct.pack("<QIHH", BUFFERS, 1, NEXT, (n + 1) % 4096) for n in range(4096))
            await rig.call(rig.vm.memory.write_physical, BUFFERS, table)
            await rig.call(queue.describe, 0, BUFFERS, len(table), INDIRECT, 0)
            await rig.call(queue._put, queue.avail + 4, "H", 0)
            assert len((await rig.element())["descs"]) == 1024
            assert not rig.device.state.broken

    asyncio.run(scene())


def test_packed_rings_are_not_understood(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Inspected(tmp_path / "disk", bytes(4096), packed=True) as rig:
            await rig.start(packed=True)
            with pytest.raises(GenericError, match="Packed ring not supported"):
                await rig.element()

    asyncio.run(scene())


def test_every_bit_has_one_name() -> None:
    """What is set is told once, and what has no name is left over."""
    for _, names in DEVICES.values():
        for table in (names, TRANSPORT, STATUSES):
            bits = [number for number, _ in table]
            assert len(bits) == len(set(bits))
            found, rest = decode((1 << 64) - 1, table)
            assert [sentence for _, sentence in reversed(table)] == found
            assert rest == (1 << 64) - 1 - sum(1 << number for number in bits)
    assert INDIRECT_DESC == 1 << 28

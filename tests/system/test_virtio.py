"""Linux and its virtio drivers: disks and random bytes through virtio-mmio slots of both versions."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import shell as shell_guest
from tests.programs import QmpError
from tests.system.embed import Embedded
from tests.system.linux import kernel, run, shell
from tests.system.test_snapshot import move

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

MIB = 1 << 20
SIZE = 16 * MIB
MODERN = ("-global", "virtio-mmio.force-legacy=false")


def disk(folder: Path, name: str, size: int = SIZE) -> tuple[Path, bytes]:
    """An image with random content."""
    content = random.Random(name).randbytes(size)
    path = folder / name
    path.write_bytes(content)
    return path, content


def with_disks(*options: str) -> tuple[str, ...]:
    return kernel(*options, guest=shell_guest())


def drive(path: Path, name: str, more: str = "") -> tuple[str, ...]:
    return (
        *("-drive", f"file={path},format=raw,if=none,id={name}"),
        *("-device", f"virtio-blk-device,drive={name},id=disk-{name},serial=SN-{name}{more}"),
    )


def boot(starter: Starter, *options: str) -> Program:
    program = starter(*with_disks(*options), serial=True)
    shell(program)
    run(program, "drivers")
    return program


@pytest.mark.parametrize(
    ("slot", "more"),
    [
        ((), ""),
        (MODERN, ""),
        (MODERN, ",packed=on,num-queues=2"),
        (MODERN, ",event_idx=off,indirect_desc=off"),
    ],
    ids=["legacy", "modern", "packed", "plain"],
)
def test_reading_and_writing(daemon: Starter, tmp_path: Path, slot: tuple[str, ...], more: str) -> None:
    first, content = disk(tmp_path, "first")
    second, _ = disk(tmp_path, "second", 4 * MIB)
    program = boot(daemon, *slot, *drive(first, "hd0", more), *drive(second, "hd1", more))
    run(program, "cd /sys/block")
    # The first on the command line is the first in the guest.
    assert run(program, "for d in vda vdb; do cat $d/serial; echo; cat $d/size; done") == [
        *("SN-hd0", "32768"),
        *("SN-hd1", "8192"),
    ]
    digest = hashlib.sha256(content).hexdigest()
    assert run(program, "sha256sum /dev/vda")[-1].split()[0] == digest
    run(program, "dd if=/dev/vda of=/dev/vdb bs=1M count=4 iflag=direct oflag=direct")
    run(program, "dd if=/dev/vda of=/dev/vdb bs=4k count=100 skip=1000 iflag=direct oflag=direct")
    run(program, "sync; blockdev --flushbufs /dev/vdb")
    expected = content[4096000 : 4096000 + 409600] + content[409600 : 4 * MIB]
    assert second.read_bytes() == expected
    assert run(program, "dmesg | grep -c -e 'I/O error' -e 'Oops' -e 'WARNING:'") == ["0"]
    stats = {info["device"]: info["stats"] for info in program.qmp.command("query-blockstats")}
    assert stats["hd0"]["rd_bytes"] >= SIZE
    assert stats["hd1"]["wr_bytes"] >= 4 * MIB


def test_discard_resize_and_reboot(daemon: Starter, tmp_path: Path) -> None:
    path, content = disk(tmp_path, "disk")
    program = boot(
        daemon,
        *MODERN,
        *("-blockdev", f"driver=file,node-name=f0,filename={path},discard=unmap"),
        *("-blockdev", "driver=raw,node-name=n0,file=f0,discard=unmap"),
        *("-device", "virtio-blk-device,drive=n0,id=vd0"),
    )
    before = os.stat(path).st_blocks
    run(program, f"blkdiscard -o {MIB} -l {2 * MIB} /dev/vda")
    found = path.read_bytes()
    assert found[:MIB] == content[:MIB]
    assert found[MIB : 3 * MIB] == bytes(2 * MIB)
    assert found[3 * MIB :] == content[3 * MIB :]
    assert os.stat(path).st_blocks < before

    program.qmp.command("block_resize", {"node-name": "n0", "size": 2 * SIZE})
    program.serial.expect("vda: detected capacity change from 32768 to 65536")
    run(program, "")
    assert run(program, "cat /sys/block/vda/size") == ["65536"]

    # A reset while the disk is being read.
    program.serial.send(b"dd if=/dev/vda of=/dev/null bs=64k iflag=direct & reboot -f\r")
    assert program.qmp.event("RESET")["data"]["guest"] is True
    shell(program)
    run(program, "drivers")
    assert run(program, "dd if=/dev/vda bs=1M count=1 skip=8 2>/dev/null | sha256sum")[0].split()[0] == (
        hashlib.sha256(content[8 * MIB : 9 * MIB]).hexdigest()
    )


def test_stopped_in_the_middle_of_reading(daemon: Starter, tmp_path: Path) -> None:
    path, content = disk(tmp_path, "disk")
    program = boot(daemon, *MODERN, *drive(path, "hd0"))
    program.serial.send(b"sha256sum /dev/vda\r")
    for _ in range(20):
        program.qmp.command("stop")
        program.qmp.command("cont")
    program.serial.expect(hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("slot", [(), MODERN], ids=["legacy", "modern"])
def test_random_bytes(daemon: Starter, tmp_path: Path, slot: tuple[str, ...]) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 64)
    program = boot(
        daemon,
        *slot,
        *("-object", f"rng-random,id=r0,filename={source}", "-device", "virtio-rng-device,rng=r0,id=rng0"),
    )
    assert run(program, "cat /sys/class/misc/hw_random/rng_current") == ["virtio_rng.0"]
    numbers = run(program, "head -c 64 /dev/hwrng | hexdump -v -e '64/1 \"%d \"'; echo")[0].split()
    assert all((int(b) - int(a)) % 256 == 1 for a, b in itertools.pairwise(numbers))
    assert program.qmp.command("qom-get", path="/machine/peripheral/rng0", property="rng") == "/objects/r0"


def test_slots_take_one_device_and_no_hot_plug(daemon: Starter, tmp_path: Path) -> None:
    path, _ = disk(tmp_path, "disk", MIB)
    program = daemon(
        *("-machine", "virt", "-display", "none", "-S"),
        *("-device", "virtio-rng-device,bus=virtio-mmio-bus.3,id=rng0"),
        *("-blockdev", f"driver=file,node-name=f0,filename={path}"),
        *(
            "-blockdev",
            "driver=null-co,node-name=n0,size=1048576",
            "-device",
            "virtio-blk-device,drive=n0,bootindex=1",
        ),
    )
    for bus, text in (
        ("virtio-mmio-bus.0", "Bus 'virtio-mmio-bus.0' does not support hotplugging"),
        ("virtio-mmio-bus.3", "Bus 'virtio-mmio-bus.3' is full"),
    ):
        with pytest.raises(QmpError, match=f"^{text}$"):
            program.qmp.command("device_add", driver="virtio-blk-device", drive="f0", bus=bus)
    with pytest.raises(QmpError, match=r"^Bus 'virtio-mmio-bus.3' does not support hotplugging$"):
        program.qmp.command("device_del", id="rng0")


NULL = ("-blockdev", "driver=null-co,node-name=n0", "-blockdev", "driver=null-co,node-name=n1")


@pytest.mark.differential
@pytest.mark.parametrize(
    "options",
    [
        "virtio-blk-device,drive=n0,bootindex=1 -device virtio-blk-device,drive=n1,bootindex=1",
        "virtio-blk-device,drive=n0 -device virtio-blk-device,drive=n0",
        "virtio-blk-device,drive=zz",
        "virtio-blk-device,drive=n0,iothread=zz",
        "virtio-blk-device,drive=n0,bus=virtio-mmio-bus.9",
        "virtio-blk-device,drive=n0,packed=maybe",
        "virtio-blk-device",
        "virtio-rng-device,rng=zz",
        "virtio-rng-device,period=0",
        "virtio-rng-device" + " -device virtio-rng-device" * 8,
    ],
)
def test_what_is_refused_is_refused_in_qemus_words(options: str) -> None:
    said = []
    for program in ([sys.executable, "-m", "qemud"], ["qemu-system-riscv64"]):
        done = subprocess.run(
            [*program, "-machine", "virt", "-display", "none", *NULL, "-device", *options.split()],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        said.append(done.stderr.partition(": ")[2])
    assert said[0] == said[1]


def test_a_disk_in_a_slot_is_found_as_libvirt_looks_for_it(daemon: Starter, tmp_path: Path) -> None:
    path, _ = disk(tmp_path, "disk", MIB)
    program = daemon("-machine", "virt", "-display", "none", "-S", *drive(path, "hd0"))
    behind = "/machine/peripheral/disk-hd0/virtio-backend"
    [info] = program.qmp.command("query-block")
    [stats] = program.qmp.command("query-blockstats")
    assert info["qdev"] == stats["qdev"] == behind
    for name in (behind, "/machine/peripheral/disk-hd0", "disk-hd0"):
        with pytest.raises(QmpError, match="is not removable"):
            program.qmp.command("eject", id=name)


# Short ones: the shell breaks long lines, and not always at the same place.
LOOK = (
    "cat /sys/bus/virtio/devices/virtio0/features",
    "cd /sys/block/vda",
    "grep -s . size ro serial cache_type queue/*",
    "ls mq",
    "ls -l /sys/bus/virtio/devices | sed 's/.*soc//'",
)


@pytest.mark.differential
@pytest.mark.parametrize(
    ("slot", "more"),
    [
        ((), ""),
        (
            MODERN,
            ",num-queues=3,queue-size=128,physical_block_size=4096,opt_io_size=65536,discard_granularity=8192,packed=on",
        ),
        (
            MODERN,
            ",logical_block_size=4096,physical_block_size=4096,write-cache=off,config-wce=off,discard=off,event_idx=off",
        ),
    ],
    ids=["legacy", "many", "other"],
)
def test_the_guest_sees_the_disk_that_qemu_shows(
    daemon: Starter, reference: Starter, tmp_path: Path, slot: tuple[str, ...], more: str
) -> None:
    path, _ = disk(tmp_path, "disk")
    seen = []
    for starter in (daemon, reference):
        program = boot(starter, *slot, *drive(path, "hd0", more))
        seen.append([run(program, command) for command in LOOK])
        program.qmp.command("quit")
        program.wait()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("slot", [(), MODERN], ids=["legacy", "modern"])
def test_a_machine_goes_on_elsewhere_in_the_middle_of_reading(tmp_path: Path, slot: tuple[str, ...]) -> None:
    path, content = disk(tmp_path, "disk")
    options = with_disks(*slot, *drive(path, "hd0"), "-device", "virtio-rng-device")
    program = Embedded(*options, serial=True)
    try:
        shell(program)
        run(program, "drivers")
        program.serial.send(b"sha256sum /dev/vda; head -c 8 /dev/hwrng | wc -c\r")
        for _ in range(3):
            program.qmp.command("stop")
            program, _ = move(program, options, tmp_path / "machine")
            program.qmp.command("cont")
        program.serial.expect(hashlib.sha256(content).hexdigest())
        program.serial.expect("8")
    finally:
        program.close()

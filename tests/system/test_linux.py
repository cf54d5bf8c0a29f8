"""Debian's own kernel, unmodified, from the first instruction to a shell, and how it ends."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.guests import STRESS_HASH, linux
from tests.programs import QmpError
from tests.system.linux import OPENSBI, board, kernel, run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

pytestmark = pytest.mark.system


def test_from_boot_to_shell_to_reboot_to_power_off(daemon: Starter) -> None:
    program = daemon(*kernel(), serial=True)
    shell(program)
    assert run(program, "uname -m") == ["riscv64"]
    assert run(program, "cat /proc/cmdline") == ["console=ttyS0"]
    assert run(program, "stress 3")[:3] == [f"STRESS {i} {STRESS_HASH}" for i in (1, 2, 3)]
    interrupts = "\n".join(run(program, "cat /proc/interrupts"))
    assert "SiFive PLIC" in interrupts
    assert run(program, "dmesg | grep -c -e 'Oops' -e 'BUG:' -e 'WARNING:'") == ["0"]
    assert run(program, "cat /sys/class/rtc/rtc0/name") == ["goldfish_rtc 101000.rtc"]
    # The kernel took its time of day from there, which is the host's.
    assert abs(int(run(program, "date +%s")[0]) - time.time()) < 60

    program.serial.send(b"reboot -f\r")
    assert program.qmp.event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
    shell(program)
    assert run(program, "echo again") == ["again"]
    program.serial.send(b"poweroff -f\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert program.wait() == 0


def test_a_compressed_kernel_kept_after_its_end(daemon: Starter, tmp_path: Path) -> None:
    """A gzip-compressed Image; with -no-shutdown the machine stays, and only a reset brings it back."""
    guest = linux()
    packed = tmp_path / "Image.gz"
    packed.write_bytes(gzip.compress(guest.kernel.read_bytes(), compresslevel=1))
    program = daemon(*kernel("-no-shutdown", guest=guest._replace(kernel=packed)), serial=True)
    shell(program)
    program.serial.send(b"poweroff -f\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    program.qmp.event("STOP")
    assert program.qmp.command("query-status") == {"running": False, "status": "shutdown"}
    with pytest.raises(QmpError, match=r"^Resetting the Virtual Machine is required$"):
        program.qmp.command("cont")
    program.qmp.command("system_reset")
    assert program.qmp.event("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert program.qmp.command("query-status") == {"running": False, "status": "prelaunch"}
    program.qmp.command("cont")
    program.serial.expect("Linux version 6.")
    shell(program)


def test_no_reboot_and_a_panicking_kernel(daemon: Starter) -> None:
    """A kernel without a root panics; told to restart then, it ends the program under -no-reboot."""
    guest = linux()
    program = daemon(
        *board("-kernel", str(guest.kernel), "-append", "console=ttyS0 panic=-1", "-no-reboot"),
        serial=True,
    )
    program.serial.expect("Kernel panic - not syncing")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-reset"}
    assert program.wait() == 0


def test_a_device_tree_of_ones_own(daemon: Starter, tmp_path: Path) -> None:
    """What -dtb says is what the kernel sees; the command line still comes from the options."""
    first = daemon(*board("-S", "-kernel", str(DEMO_GUEST)))
    file = tmp_path / "virt.dtb"
    first.qmp.command("dumpdtb", filename=str(file))
    tree = file.read_bytes()
    assert tree.count(b"riscv-virtio,qemu\0") == 1
    file.write_bytes(tree.replace(b"riscv-virtio,qemu\0", b"riscv-virtio,mine\0"))
    program = daemon(*kernel("-dtb", str(file), append="console=ttyS0 quiet"), serial=True)
    shell(program)
    assert run(program, "cat /proc/device-tree/model; echo") == ["riscv-virtio,mine\0"]
    assert run(program, "cat /proc/cmdline") == ["console=ttyS0 quiet"]


def test_without_the_c_extension(daemon: Starter) -> None:
    """A host that has no compiler boots the same kernel, with the engine's callbacks in Python."""
    program = daemon(*kernel("-S"), serial=True, environment={"QEMUD_TWIN": "1"})
    program.qmp.command("cont")
    shell(program)
    assert run(program, "stress 1")[0] == f"STRESS 1 {STRESS_HASH}"
    for _ in range(50):
        program.qmp.command("stop")
        program.qmp.command("cont")
    assert run(program, "stress 1")[0] == f"STRESS 1 {STRESS_HASH}"


@pytest.mark.parametrize(
    "options",
    [
        ("-machine", "virt,aclint=on", "-cpu", "max", "-bios", str(OPENSBI / "fw_dynamic.bin")),
        ("-object", "memory-backend-memfd,id=ram,size=128M", "-machine", "virt,memory-backend=ram"),
        ("-m", "6G"),
    ],
    ids=["aclint", "memory-backend", "6G"],
)
def test_other_boards(daemon: Starter, options: tuple[str, ...]) -> None:
    guest = linux()
    program = daemon(
        "-display",
        "none",
        *options,
        "-kernel",
        str(guest.kernel),
        "-initrd",
        str(guest.initrd),
        "-append",
        "console=ttyS0 quiet",
        serial=True,
    )
    shell(program)
    [total] = run(program, "grep MemTotal /proc/meminfo")
    expected = 6 << 20 if "6G" in options else 128 << 10
    assert expected * 0.45 < int(total.split()[1]) < expected
    assert run(program, "stress 1")[0] == f"STRESS 1 {STRESS_HASH}"

"""Guests that do whatever they can to harm: the daemon lives, answers, and the guest goes on."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.embed import Embedded
from tests.system.linux import kernel, run, shell

if TYPE_CHECKING:
    from tests.conftest import Starter

pytestmark = pytest.mark.system

GUESTS = Path(__file__).with_name("hostile")
SEED = 0x9E37_79B9_7F4A_7C15


def guest(folder: Path, name: str, seed: int, rounds: int) -> str:
    """A copy of the guest that begins its random numbers with `seed`."""
    code = (GUESTS / f"{name}.bin").read_bytes()
    place = code.index(struct.pack("<Q", SEED))
    file = folder / f"{name}-{seed}"
    file.write_bytes(code[:place] + struct.pack("<QQ", seed, rounds) + code[place + 16 :])
    return str(file)


def seeds(count: int) -> list[int]:
    """The same in every worker of a run; different ones every day would be found by nobody."""
    chance = random.Random(SEED)
    return [chance.randrange(1, 1 << 64) for _ in range(count)]


@pytest.mark.needs("make", "riscv64-linux-gnu-gcc")
@pytest.mark.parametrize("name", ["compare", "mmio", "sbi"])
def test_the_source_builds_to_the_committed_guest(tmp_path: Path, name: str) -> None:
    target = f"{tmp_path}/{name}.bin"
    subprocess.run(
        ["make", "--silent", "-C", GUESTS, f"OUT={tmp_path}", target], check=True, capture_output=True
    )
    assert Path(target).read_bytes() == (GUESTS / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("seed", seeds(3), ids=str)
@pytest.mark.parametrize(("name", "option"), [("mmio", "-bios"), ("sbi", "-kernel")])
@pytest.mark.parametrize("twin", ["", "1"], ids=["native", "twin"])
def test_random_accesses_and_calls(tmp_path: Path, seed: int, name: str, option: str, twin: str) -> None:
    rounds = 20_000 if twin else 100_000
    program = Embedded(
        "-machine",
        "virt",
        "-m",
        "64",
        "-display",
        "none",
        option,
        guest(tmp_path, name, seed, rounds),
        serial=True,
        environment={"QEMUD_TWIN": twin},
    )
    try:
        for _ in range(20):
            assert program.qmp.command("query-status") == {"running": True, "status": "running"}
        program.serial.expect("\ndone\n")
        program.qmp.command("stop")
        [hart] = [
            item["state"]
            for item in program.ask("value")["objects"]
            if item["path"] == "/machine/soc0/harts[0]"
        ]
        faults = hart["x"][18]
        assert (faults > rounds // 4) if name == "mmio" else faults == 0
        program.qmp.command("system_reset")
        program.qmp.command("cont")
        program.serial.expect("\ndone\n")
    finally:
        program.close()


CSRS = (
    *range(0x300, 0x307),
    *range(0x340, 0x345),
    0x3A0,
    0x3A2,
    0x3B0,
    0x3BF,
    0x100,
    0x104,
    0x105,
    0x180,
    1,
    2,
    3,
)
SYSTEM = (0x3020_0073, 0x1020_0073, 0x0000_0073, 0x0010_0073, 0x1050_0073, 0x1200_0073, 0x0000_100F)
OPCODES = (0x03, 0x07, 0x13, 0x17, 0x1B, 0x23, 0x27, 0x2F, 0x33, 0x37, 0x3B, 0x43, 0x53, 0x63, 0x67, 0x6F)
SET_MTVEC = (0x0000_0297, 0x1002_8293, 0x3052_9073)  # auipc t0, 0; addi t0, t0, 256; csrw mtvec, t0


def instruction(chance: random.Random) -> int:
    """Often one that means something."""
    kind = chance.random()
    if kind < 0.15:
        return chance.getrandbits(32)
    if kind < 0.45:
        csr = chance.choice(CSRS) if kind < 0.4 else chance.getrandbits(12)
        return (
            csr << 20 | chance.getrandbits(5) << 15 | chance.choice((1, 2, 3, 5, 6, 7)) << 12 | 5 << 7 | 0x73
        )
    if kind < 0.5:
        return chance.choice(SYSTEM)
    return chance.getrandbits(25) << 7 | chance.choice(OPCODES)


@pytest.mark.parametrize("seed", seeds(2), ids=str)
def test_random_code(daemon: Starter, tmp_path: Path, seed: int) -> None:
    """Code that makes no sense, in M-mode, often in an endless loop of traps: the monitor answers, the next reset helps."""
    chance = random.Random(seed)
    file = tmp_path / "code"
    words = 4096
    file.write_bytes(bytes(4 * words))
    program = daemon(
        "-machine",
        "virt",
        "-m",
        "16",
        "-display",
        "none",
        "-no-shutdown",
        "-S",
        "-bios",
        str(file),
        serial=True,
    )
    for _ in range(150):
        code = [*SET_MTVEC, *(instruction(chance) for _ in range(words - len(SET_MTVEC)))]
        with file.open("r+b") as opened:
            opened.write(struct.pack(f"<{words}I", *code))
        program.qmp.command("system_reset")
        program.qmp.command("cont")
        for _ in range(5):
            program.qmp.command("query-status")
        program.qmp.command("stop")
        assert program.qmp.command("query-status")["status"] in {"paused", "shutdown", "guest-panicked"}


def test_linux_touches_nothing(daemon: Starter) -> None:
    """What Debian's kernel makes of accesses to holes and of odd accesses to registers: as on QEMU 10.0."""
    program = daemon(*kernel(append="console=ttyS0 quiet loglevel=1"), serial=True)
    shell(program)
    crash = ["Segmentation fault", "139"]
    for command, result in {
        "0x7000000000 32": crash,  # a hole far away
        "0x7000000000 32 5": crash,
        "0x18000000 8": crash,  # a hole between devices
        "0x18000000 64 1": crash,
        "0x90000000 32": crash,  # behind the end of RAM
        "0x10009000 32": crash,  # behind the last virtio slot
        "0x100000 8": crash,  # the test finisher takes 16 and 32 bits
        "0x100000 32": ["0x00000000", "0"],
        "0x2000000 8": crash,  # MSIP takes 32 bits
        "0x2000000 16": crash,
        "0x2000000 64": crash,
        "0x200bff8 8": crash,  # mtime takes 32 and 64 bits
        "0x200bffc 16": crash,
        "0xc000028 32": ["0x00000001", "0"],  # the PLIC takes 32 bits: priority of the serial port
        "0xc000028 8": crash,
        "0xc000028 64": crash,
        "0x10001000 8": ["0x76", "0"],  # an empty virtio slot takes everything
        "0x10001000 16": ["0x6976", "0"],
        "0x10001000 32": ["0x74726976", "0"],
        "0x10001000 64": ["0x0000000174726976", "0"],
        "0x1000 32": ["0x00000297", "0"],  # ROM keeps what it has
        "0x1000 32 0": ["0"],
        "0x1000 16": ["0x0297", "0"],
    }.items():
        assert run(program, f"devmem {command}; echo $?") == result, command
    assert run(program, "dmesg | grep -c -e 'Oops' -e 'BUG:'") == ["0"]

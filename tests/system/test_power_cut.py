"""The emulator is killed while Linux writes to a qcow2 image: the image has no errors, and what was flushed is there.

``QEMUD_POWER_CUTS`` in the environment is how often; each time takes a boot of Linux.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import COMPILER
from tests.system.debian import drive, small, to_raw
from tests.system.journal import COMMAND, EVERY, SIZE, holds
from tests.system.linux import run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

pytestmark = [pytest.mark.system, pytest.mark.needs(COMPILER)]

CUTS = int(os.environ.get("QEMUD_POWER_CUTS", "4"))


@pytest.mark.parametrize("seed", range(CUTS))
def test_killed_while_linux_writes(daemon: Starter, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    image = tmp_path / "disk.qcow2"
    options = f"cluster_size={rng.choice((4096, 16384, 65536))},lazy_refcounts={rng.choice(('on', 'off'))}"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(image), str(SIZE)], check=True
    )
    program = daemon(
        *small(*drive(image, "qcow2", "disk"), "-device", "virtio-blk-device,drive=disk"), serial=True
    )
    shell(program)
    run(program, "drivers")
    program.serial.send(COMMAND.encode() + b"\r")
    flushed = EVERY * rng.randrange(1, 40)
    program.serial.expect(f"FLUSHED {flushed}\r\n")
    time.sleep(rng.random() / 20)
    program.kill()
    # It may have been further than that.
    while program.serial.fill(time.monotonic() + 60):
        pass
    flushed = max(int(number) for number in re.findall(rb"FLUSHED (\d+)\r\n", program.serial.log))

    # An image with lazy reference counts is repaired when it is opened for writing next.
    if "lazy_refcounts=on" in options:
        subprocess.run(["qemu-img", "check", "-q", "-r", "all", str(image)], capture_output=True, check=False)
    done = subprocess.run(["qemu-img", "check", str(image)], capture_output=True, text=True, check=False)
    # 3: nothing but clusters that were taken and not yet used, which is all that may be left of an image without lazy counts.
    assert done.returncode in {0, 3}, done.stdout + done.stderr
    holds(to_raw(image).read_bytes(), flushed)

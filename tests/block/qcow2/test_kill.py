"""A process that writes to an image is killed at any moment: the image has no errors, and what was flushed is there."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.block.qcow2.load import BLOCK, SIZE, steps
from tests.block.qcow2.tools import check_image, content, make_image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_leaves_no_errors_and_what_was_flushed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cluster = rng.choice((512, 2048))
    path = make_image(tmp_path / "disk.qcow2", SIZE, cluster_size=cluster)
    last = rng.randrange(5, 400)
    command = [sys.executable, "-m", "tests.block.qcow2.load", str(path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == last:
                break
        process.kill()
        done = last
        for line in process.stdout:
            done = int(line)
    assert process.returncode == -9
    check_image(path, leaks=True)
    _check(content(path, SIZE), seed, done)


def _check(found: bytes, seed: int, done: int) -> None:
    """Each block is as at the last flush, or as at some time after."""
    now: dict[int, bytes] = {}
    possible: dict[int, list[bytes]] = {}
    for number, (kind, place, data) in enumerate(steps(seed)):
        if number > done + 1:
            break
        if kind == "flush":
            if number <= done:
                possible = {block: [each] for block, each in now.items()}
            continue
        for start in range(0, len(data), BLOCK):
            block = place + start
            now[block] = data[start : start + BLOCK]
            possible.setdefault(block, [bytes(BLOCK)]).append(now[block])
    for block in range(0, SIZE, BLOCK):
        each = found[block : block + BLOCK]
        versions = possible.get(block, [bytes(BLOCK)])
        # A cluster is smaller than a block: parts of the last one, which was under way, may be there.
        if each not in versions:
            for part in range(0, BLOCK, 512):
                assert each[part : part + 512] in {one[part : part + 512] for one in versions}, block

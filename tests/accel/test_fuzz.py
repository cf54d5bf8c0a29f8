"""Random guests, in processes of their own, since what is looked for ends the process."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("twin", ["", "1"])
@pytest.mark.parametrize("seed", ["a", "b"])
def test_no_guest_ends_the_process(twin, seed):
    result = subprocess.run(
        [sys.executable, "-m", "tests.accel.fuzz", seed, "400"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "QEMUD_TWIN": twin},
    )
    assert (result.stdout, result.returncode) == ("done\n", 0), result.stderr[-2000:]

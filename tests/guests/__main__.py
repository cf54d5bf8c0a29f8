"""``python -m tests.guests [FOLDER]``: see the package."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from qemud.demo.debian import Guest
from tests.guests import linux


def main() -> None:
    guest = linux()
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        guest = Guest(
            Path(shutil.copy(guest.kernel, folder / "Image")),
            Path(shutil.copy(guest.initrd, folder / "initrd.cpio.gz")),
        )
    print(*guest)  # noqa: T201 - printing them is what the command is for


if __name__ == "__main__":
    main()

"""EDK2's firmware for `virt`, from Debian's package: code for the first bank of flash memory, and variables for the second.

``python -m tests.guests.firmware`` fetches it (once) and prints where it is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from qemud.demo.apt import PrivateApt, read_member
from qemud.demo.debian import ARCHITECTURE, SUITE, cache_folder, locked, write_atomically

_PACKAGE = "qemu-efi-riscv64"
_FOLDER = "usr/share/qemu-efi-riscv64"


class Firmware(NamedTuple):
    """Contents of the two banks; tests copy the second."""

    code: Path
    variables: Path


def edk2() -> Firmware:
    """From the cache, or else from the archive.  Raises AptError."""
    folder = cache_folder() / f"edk2-{SUITE}-{ARCHITECTURE}"
    folder.mkdir(parents=True, exist_ok=True)
    found = Firmware(folder / "RISCV_VIRT_CODE.fd", folder / "RISCV_VIRT_VARS.fd")
    with locked(folder):
        if not all(path.exists() for path in found):
            with tempfile.TemporaryDirectory(dir=folder, prefix="apt-") as private:
                apt = PrivateApt(Path(private), suite=SUITE, architecture=ARCHITECTURE)
                apt.update()
                package = apt.download(_PACKAGE)
                for path in found:
                    write_atomically(path, read_member(package, f"{_FOLDER}/{path.name}"))
    return found


def main() -> None:
    print(*edk2())  # noqa: T201 - printing them is what the command is for


if __name__ == "__main__":
    main()

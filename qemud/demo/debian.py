"""Boot Debian's own riscv64 kernel to a shell: ``python -m qemud.demo.debian``.

The kernel and a static busybox come from Debian's archive, by apt, as a normal user, into ``$XDG_CACHE_HOME/qemud`` (or
``~/.cache/qemud``), once; the initramfs is made here from the busybox. The module's command then *becomes* qemud with
the two, the guest's console in the terminal and a QMP socket beside them. Without apt it says so and boots the embedded guest.

As a library: ``kernel, initrd = fetch()``; `initramfs` makes an archive with files of one's own in it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from qemud.demo import DEMO_GUEST
from qemud.demo.apt import AptError, PrivateApt, read_member
from qemud.demo.cpio import CpioWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SUITE = "trixie"
ARCHITECTURE = "riscv64"
PROMPT = "qemud:~# "
"""What the guest's shell prints when it is ready for a command."""

_KERNEL_META_PACKAGE = "linux-image-riscv64"
_SHELL_PACKAGE = "busybox-static"

_INIT = f"""\
#!/bin/sh
export PATH=/bin HOME=/root PS1='{PROMPT}'
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox --install -s /bin
hostname qemud
echo "Linux $(uname -r) is up on $(uname -m); poweroff -f or Ctrl-A x ends it."
cd /root
setsid cttyhack sh
poweroff -f
"""


class Guest(NamedTuple):
    """What ``-kernel`` and ``-initrd`` take."""

    kernel: Path
    initrd: Path


def cache_folder() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/qemud``, or ``~/.cache/qemud``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification tells to ignore a relative path.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "qemud"


def is_fetched() -> bool:
    """Whether `fetch` would find everything in the cache."""
    folder = _folder()
    # The kernel comes last: a cache that has it is complete.
    return (folder / "Image").exists()


def _folder() -> Path:
    return cache_folder() / f"debian-{SUITE}-{ARCHITECTURE}"


def fetch(
    *,
    refresh: bool = False,
    name: str = "initrd.cpio.gz",
    extra: Mapping[str, bytes] | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> Guest:
    """Debian's kernel Image and an initramfs for it, from the cache or else from the archive.

    With `refresh`, look for newer packages. `extra` files go into the initramfs, which is kept as `name`. `progress` is told,
    in words, of what takes long. Raises AptError, or OSError when the cache cannot be written.
    """
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    kernel, busybox, initrd = folder / "Image", folder / "busybox", folder / name
    with locked(folder):
        if refresh or not is_fetched():
            progress(f"fetching Debian's {ARCHITECTURE} kernel and busybox (120 MB) into {folder}")
            with tempfile.TemporaryDirectory(dir=folder, prefix="apt-") as private:
                _download(Path(private), kernel, busybox)
        archive = initramfs(busybox.read_bytes(), extra)
        if not initrd.exists() or initrd.read_bytes() != archive:
            write_atomically(initrd, archive)
    return Guest(kernel, initrd)


def _download(private: Path, kernel: Path, busybox: Path) -> None:
    apt = PrivateApt(private, suite=SUITE, architecture=ARCHITECTURE)
    apt.update()
    names = [name for name in apt.depends(_KERNEL_META_PACKAGE) if name.startswith("linux-image-")]
    if not names:
        raise AptError(f"{_KERNEL_META_PACKAGE} of {SUITE} names no kernel package")
    write_atomically(busybox, read_member(apt.download(_SHELL_PACKAGE), "usr/bin/busybox"))
    write_atomically(kernel, read_member(apt.download(names[0]), "boot/vmlinux-"))


def initramfs(busybox: bytes, extra: Mapping[str, bytes] | None = None) -> bytes:
    """A gzip-compressed initramfs that leads to busybox's shell on the console.

    `extra` maps paths (in directories that exist: bin, root) to contents; those files are executable. The same input
    gives the same bytes.
    """
    archive = CpioWriter()
    for path in ("bin", "dev", "proc", "root", "sys", "tmp"):
        archive.directory(path)
    # The kernel opens /dev/console for init before anything is mounted.
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox, 0o755)
    archive.symlink("bin/sh", "busybox")
    archive.file("init", _INIT.encode(), 0o755)
    for path, data in (extra or {}).items():
        archive.file(path, data, 0o755)
    return gzip.compress(archive.finish(), compresslevel=6, mtime=0)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time fills the folder; the others wait for it and find the work done."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, data: bytes) -> None:
    """Make or replace a file; nobody sees half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name + ".", delete=False) as temporary:
        try:
            temporary.write(data)
            temporary.flush()
            os.fchmod(temporary.fileno(), 0o644)
            Path(temporary.name).replace(path)
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise


def qmp_socket() -> Path:
    """Where the guest's QMP socket is made: in the user's run-time directory, or else in the cache."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    return (Path(folder) if os.access(folder, os.W_OK) else cache_folder()) / "qemud-demo.qmp"


def _say(text: str) -> None:
    sys.stderr.write(f"qemud: {text}\n")
    sys.stderr.flush()


def _become_qemud(options: list[str]) -> NoReturn:
    socket = qmp_socket()
    socket.parent.mkdir(parents=True, exist_ok=True)
    _say(f"Ctrl-A x ends the guest, Ctrl-A c leads to its monitor and back; qmp-shell {socket} drives it")
    qmp = ["-qmp", f"unix:{socket},server=on,wait=off"]
    os.execv(sys.executable, [sys.executable, "-m", "qemud", "-nographic", *qmp, *options])  # noqa: S606 - no shell wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the guest and become the emulator that boots it."""
    parser = argparse.ArgumentParser(
        prog="python -m qemud.demo.debian",
        description="Boot Debian's riscv64 kernel to a shell in this terminal.",
        allow_abbrev=False,
        epilog="Any further options are qemud's own, such as -m 512.",
    )
    parser.add_argument(
        "--fetch", action="store_true", help="only fetch; print the paths of kernel and initrd"
    )
    parser.add_argument("--refresh", action="store_true", help="look for newer packages")
    chosen, options = parser.parse_known_args(argv)
    try:
        guest = fetch(refresh=chosen.refresh, progress=_say)
    except (AptError, OSError) as error:
        _say(str(error))
        if chosen.fetch:
            return 1
        _say("booting the embedded guest instead")
        options = ["-kernel", str(DEMO_GUEST), *options]
    else:
        if chosen.fetch:
            sys.stdout.write(f"{guest.kernel} {guest.initrd}\n")
            return 0
        boot = [
            "-m",
            "256",
            "-kernel",
            str(guest.kernel),
            "-initrd",
            str(guest.initrd),
            "-append",
            "console=ttyS0",
        ]
        options = [*boot, *options]
    _become_qemud(options)


if __name__ == "__main__":
    sys.exit(main())

"""A Debian with systemd on a disk of its own, and the kernel's drivers for disks, networks and ports.

``python -m tests.guests.disk`` makes both (once) and prints where they are.

    guest = debian()         # .raw, .qcow2: a root file system; .kernel, .initrd: what boots from /dev/vda, or root=…
    guest = shell()          # .kernel, .initrd: a busybox shell in RAM, three seconds away; `drivers` loads all drivers

The packages come from Debian's archive, as in `qemud.demo.debian`.  The root file system is made by mmdebstrap in a minute and
a half, and kept in the cache until the recipe changes.  Tests never write into it: `overlay` and `copy` are for that.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from qemud.demo.apt import KEYRING, AptError, PrivateApt, debian_mirror, read_member
from qemud.demo.cpio import CpioWriter
from qemud.demo.debian import ARCHITECTURE, SUITE, Guest, cache_folder, initramfs, locked, write_atomically
from tests.guests import namespace

MODULES = (
    *("virtio_mmio", "virtio_blk", "virtio_net", "virtio_scsi", "virtio_balloon", "virtio-rng"),
    *("sd_mod", "sr_mod", "ext4", "crc32c_generic", "isofs", "loop", "autofs4"),
)
"""Drivers that the guests have; the kernel itself has virtio over PCI, and consoles with ports."""

BOOT_MODULES = ("virtio_mmio", "virtio_blk", "virtio_scsi", "sd_mod", "crc32c_generic", "ext4")
"""Those that reach the root file system."""

ROOT_SHELL = Path(__file__).with_name("root.sh")
LOADS = tuple(Path(__file__).with_name(name) for name in ("diskload.c", "netload.c"))
COMPILER = "riscv64-linux-gnu-gcc"
LOGIN = "qemud login: "
NEEDS = ("mmdebstrap", "arch-test", str(namespace.RULES), "/sbin/mke2fs", "qemu-img")
"""Programs and files without which it cannot be made; for the mark ``needs``."""

_ROOT_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
root=/dev/vda
for word in $(cat /proc/cmdline); do
    case $word in root=*) root=${word#root=} ;; esac
done
while [ ! -b $root ]; do sleep 0.1; done
mount -t ext4 -o ro $root /root || exec sh
umount /proc
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
"""

_DRIVERS = """\
#!/bin/sh
for module in $(cat /root/order); do insmod /root/$module; done
"""

_LEASE = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
echo nameserver $dns > /root/resolv.conf
"""


class Debian(NamedTuple):
    """`kernel` and `initrd` are for -kernel and -initrd; the same root file system as raw image and as qcow2."""

    kernel: Path
    initrd: Path
    raw: Path
    qcow2: Path


def debian() -> Debian:
    """A Debian that boots to `LOGIN`; root has no password, and ``/root/sums`` has the sums of what there is in ``/usr``."""
    folder = _folder()
    recipe = hashlib.sha256(ROOT_SHELL.read_bytes() + repr(MODULES).encode()).hexdigest()[:12]
    raw, qcow2 = folder / f"root-{recipe}.img", folder / f"root-{recipe}.qcow2"
    with locked(folder):
        kernel, busybox, modules = _kernel(folder)
        if not qcow2.exists():
            for old in folder.glob("root-*"):
                old.unlink()
            _build(folder, modules, raw)
            _convert(raw, qcow2)
        initrd = _keep(folder / "initrd-root.cpio.gz", _root_initramfs(busybox.read_bytes(), modules))
    return Debian(kernel, initrd, raw, qcow2)


def shell() -> Guest:
    """A busybox shell at `qemud.demo.debian.PROMPT`.

    ``drivers`` loads all drivers, ``dhcp`` asks for an address on eth0, ``diskload`` and ``netload`` are loads (see their sources), where there
    is a compiler for them.
    """
    folder = _folder()
    with locked(folder):
        kernel, busybox, modules = _kernel(folder)
        order = _in_order(modules, MODULES)
        extra = {f"root/{path.name}": path.read_bytes() for path in order}
        extra["root/order"] = "".join(f"{path.name}\n" for path in order).encode()
        extra["bin/drivers"] = _DRIVERS.encode()
        if shutil.which(COMPILER):
            extra |= {f"bin/{source.stem}": _compiled(folder, source).read_bytes() for source in LOADS}
        extra["root/lease"] = _LEASE.encode()
        extra["bin/dhcp"] = b"#!/bin/sh\nip link set eth0 up\nudhcpc -q -f -n -i eth0 -s /root/lease\n"
        initrd = _keep(folder / "initrd-shell.cpio.gz", initramfs(busybox.read_bytes(), extra))
    return Guest(kernel, initrd)


def place(number: int, blocks: int) -> int:
    """Where ``diskload`` puts write `number`, in blocks: splitmix64, as in its source."""
    mask = (1 << 64) - 1
    z = number * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return (z ^ z >> 31) % blocks


def _compiled(folder: Path, source: Path) -> Path:
    """A program for the guest, without a C library."""
    program = folder / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        partial = program.with_suffix(".partial")
        options = ["-std=c11", "-Os", "-ffreestanding", "-fno-builtin", "-fno-pic", "-nostdlib", "-static"]
        subprocess.run([COMPILER, *options, "-o", str(partial), str(source)], check=True)
        partial.rename(program)
    return program


def _folder() -> Path:
    folder = cache_folder() / f"debian-{SUITE}-{ARCHITECTURE}-disk"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _keep(path: Path, data: bytes) -> Path:
    if not path.exists() or path.read_bytes() != data:
        write_atomically(path, data)
    return path


def _kernel(folder: Path) -> tuple[Path, Path, Path]:
    """Debian's kernel Image, busybox, and a folder with ``lib/modules``: `MODULES` and what they need, not compressed."""
    kernel, busybox = folder / "Image", folder / "busybox"
    modules = folder / f"modules-{hashlib.sha256(repr(MODULES).encode()).hexdigest()[:12]}"
    if not modules.exists():
        with tempfile.TemporaryDirectory(dir=folder, prefix="apt-") as private:
            apt = PrivateApt(Path(private), suite=SUITE, architecture=ARCHITECTURE)
            apt.update()
            [package] = [
                name for name in apt.depends("linux-image-riscv64") if name.startswith("linux-image-")
            ]
            unpacked, chosen = Path(private, "kernel"), Path(private, "chosen")
            subprocess.run(["dpkg-deb", "--extract", str(apt.download(package)), str(unpacked)], check=True)
            [image] = (unpacked / "boot").glob("vmlinux-*")
            _choose(unpacked / "usr", chosen)
            write_atomically(busybox, read_member(apt.download("busybox-static"), "usr/bin/busybox"))
            write_atomically(kernel, image.read_bytes())
            for old in folder.glob("modules-*"):
                shutil.rmtree(old)
            # These come last: with them, everything is there.
            chosen.rename(modules)
    return kernel, busybox, modules


def _choose(base: Path, chosen: Path) -> None:
    """Copy `MODULES`, and what they need, from ``base/lib/modules`` to ``chosen/lib/modules``."""
    [release] = (base / "lib/modules").iterdir()
    target = chosen / "lib/modules" / release.name
    packed = {_name(path): path for path in (release / "kernel").rglob("*.ko.xz")}
    wanted = [_name(Path(name)) for name in MODULES]
    for name in wanted:
        if name not in packed:
            raise AptError(f"Debian's kernel has no module {name}")
        copied = target / packed[name].relative_to(release).with_suffix("")
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(lzma.decompress(packed[name].read_bytes()))
        wanted += [needed for needed in _needs(copied) if needed not in wanted]
    for index in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(release / index, target)


def _in_order(modules: Path, names: tuple[str, ...]) -> list[Path]:
    """The files of modules, each after those that it needs."""
    paths = {_name(path): path for path in modules.rglob("*.ko")}
    order: list[Path] = []

    def add(name: str) -> None:
        for needed in _needs(paths[name]):
            add(needed)
        if paths[name] not in order:
            order.append(paths[name])

    for name in names:
        add(_name(Path(name)))
    return order


def _needs(module: Path) -> list[str]:
    """The names of the modules that one needs itself, as its ``.modinfo`` section tells."""
    found = re.search(rb"\0depends=([^\0]+)\0", module.read_bytes())
    return [name.replace("-", "_") for name in found[1].decode().split(",")] if found else []


def _name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _root_initramfs(busybox: bytes, modules: Path) -> bytes:
    archive = CpioWriter()
    for path in ("bin", "dev", "modules", "proc", "root"):
        archive.directory(path)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox, 0o755)
    archive.file("init", _ROOT_INIT.encode(), 0o755)
    order = _in_order(modules, BOOT_MODULES)
    for module in order:
        archive.file(f"modules/{module.name}", module.read_bytes())
    archive.file("modules/order", "".join(f"{module.name}\n" for module in order).encode())
    return gzip.compress(archive.finish(), compresslevel=6, mtime=0)


def _build(folder: Path, modules: Path, raw: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
        image = Path(work, "root.img")
        script = Path(work, ROOT_SHELL.name)
        shutil.copy(ROOT_SHELL, script)
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        source = f"deb {signed}{debian_mirror()} {SUITE} main"
        environment = {"MODULES": modules, "WORK": work, "OUTPUT": image, "SUITE": SUITE, "MIRROR": source}
        try:
            namespace.run(
                script,
                {key: str(value) for key, value in environment.items()},
            )
        finally:
            # Files of other users, which only root of the namespace can remove where we are not root.
            shutil.rmtree(Path(work, "root"), ignore_errors=True)
        image.rename(raw)


def _convert(raw: Path, qcow2: Path) -> None:
    partial = qcow2.with_suffix(".partial")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(partial)], check=True)
    partial.rename(qcow2)


def copy(image: Path, folder: Path) -> Path:
    """A copy of an image to write into, with its holes."""
    target = folder / image.name
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(image), str(target)], check=True)
    return target


def overlay(image: Path, folder: Path, kind: str = "qcow2") -> Path:
    """A new qcow2 image over `image`, to write into."""
    target = folder / f"{image.stem}-overlay.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", str(image), str(target)], check=True
    )
    return target


def main() -> None:
    print(*debian(), *shell())  # noqa: T201 - printing them is what the command is for


if __name__ == "__main__":
    main()

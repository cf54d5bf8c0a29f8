"""Fetching Debian's kernel: the choice of a mirror, the cache, and what happens without apt."""

import fcntl
import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qemud.demo import debian
from qemud.demo.apt import AptError, PrivateApt, choose_mirror, read_member
from tests.demo.test_cpio import read
from tests.programs import LIMIT


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        ([], None),
        ([["http://a/", "noble", "main"]], None),
        ([["http://sec/", "bookworm-security", "main"]], None),
        ([["http://docker/", "bookworm", "stable"], ["http://a/", "bookworm", "main"]], "http://a/"),
        ([["http://b/", "bookworm-backports", "main"]], "http://b/"),
        ([["http://pg/", "bookworm-pgdg", "main"], ["http://c/", "trixie-updates", "main"]], "http://c/"),
        (
            [["mirror+file:/etc/apt/mirrors/debian.list", "sid", "main"]],
            "mirror+file:/etc/apt/mirrors/debian.list",
        ),
        ([["broken"], ["http://a/", "bookworm", "main", "more"]], None),
    ],
)
def test_mirror(targets: list[list[str]], mirror: str | None) -> None:
    assert choose_mirror(targets) == mirror


def test_no_apt_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AptError, match="this machine has no apt-get"):
        PrivateApt(tmp_path, suite="trixie", architecture="riscv64")


@pytest.mark.needs("apt-get", "apt-cache", "dpkg-deb")
def test_an_unreachable_mirror_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qemud.demo.debian", "--fetch"],
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path),
            "QEMUD_DEBIAN_MIRROR": f"file:{tmp_path}/nothing",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    first, second, rest = done.stderr.split("\n")
    assert first.startswith("qemud: fetching Debian's riscv64 kernel")
    assert second.startswith("qemud: apt-get update")
    assert rest == ""


def test_without_apt_the_embedded_guest_boots(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "qemud.demo.debian"],
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path),
            "XDG_RUNTIME_DIR": str(tmp_path),
            "PATH": str(tmp_path),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            said = b""
            while not said.endswith(b"demo> "):
                data = os.read(process.stdout.fileno(), 4096)
                assert data, process.stderr.read()
                said += data
            process.stdin.write(b"poweroff\r")
            process.stdin.flush()
            _, complaint = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 0
    assert complaint.decode().splitlines()[1:3] == [
        "qemud: cannot fetch Debian packages: this machine has no apt-get",
        "qemud: booting the embedded guest instead",
    ]


def fake_cache(folder: Path) -> Path:
    kept = folder / "qemud" / "debian-trixie-riscv64"
    kept.mkdir(parents=True)
    (kept / "Image").write_bytes(b"kernel")
    (kept / "busybox").write_bytes(b"shell")
    return kept


def test_a_full_cache_needs_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fake_cache(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    kernel, initrd = debian.fetch()
    assert kernel.read_bytes() == b"kernel"
    before = initrd.stat().st_ino
    assert debian.fetch() == (kernel, initrd)
    assert initrd.stat().st_ino == before, "an initramfs that is right is left alone"
    assert sorted(path.name for path in kept.iterdir()) == ["Image", "busybox", "initrd.cpio.gz", "lock"]
    with (kept / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_relative_cache_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "some/where")
    assert debian.cache_folder() == Path.home() / ".cache" / "qemud"


def test_initramfs_holds_a_shell_and_what_is_asked() -> None:
    archive = debian.initramfs(b"shell", {"bin/hello": b"#!/bin/sh\n"})
    assert archive == debian.initramfs(b"shell", {"bin/hello": b"#!/bin/sh\n"})
    entries = {name: (mode, data) for name, mode, data in read(gzip.decompress(archive))}
    assert entries["bin/busybox"] == (0o100755, b"shell")
    assert entries["bin/sh"] == (0o120777, b"busybox")
    assert entries["bin/hello"] == (0o100755, b"#!/bin/sh\n")
    assert entries["init"][0] == 0o100755


@pytest.mark.needs("dpkg-deb")
def test_a_package_is_read(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: small\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: small\n"
    )
    (tree / "boot").mkdir()
    (tree / "boot" / "vmlinux-1").write_bytes(b"kernel")
    package = tmp_path / "small.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, package], check=True, capture_output=True
    )
    assert read_member(package, "boot/vmlinux-") == b"kernel"
    with pytest.raises(AptError, match=r"small.deb holds no file boot/nothing"):
        read_member(package, "boot/nothing")
    package.write_bytes(b"not a package")
    with pytest.raises(AptError, match=r"small.deb is not a readable package"):
        read_member(package, "boot/vmlinux-")

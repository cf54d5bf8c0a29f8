"""Archives in cpio's "new ASCII" form (newc), the form the Linux kernel unpacks as an initramfs.

The same entries always give the same bytes: owner root, time 0, inodes numbered in order. Source: the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst.

    archive = CpioWriter()
    archive.directory("bin")
    archive.file("bin/busybox", data, mode=0o755)
    archive.symlink("bin/sh", "busybox")
    Path("initrd").write_bytes(archive.finish())
"""

from __future__ import annotations

import stat

_MAGIC = b"070701"
_ALIGNMENT = 4
_TRAILER = "TRAILER!!!"


class CpioWriter:
    """Collects entries in memory; `finish` gives the archive. Paths are relative, parents come first."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._inode = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory."""
        self._entry(path, stat.S_IFDIR | mode, b"", links=2)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file of `data`."""
        self._entry(path, stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link to `target`."""
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._entry(path, stat.S_IFCHR | mode, b"", device=(major, minor))

    def finish(self) -> bytes:
        """The whole archive, with its trailer."""
        self._inode = -1
        self._entry(_TRAILER, 0, b"")
        return b"".join(self._chunks)

    def _entry(
        self, path: str, mode: int, data: bytes, *, links: int = 1, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        name = path.encode() + b"\0"
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        header = _MAGIC + b"".join(b"%08X" % field for field in fields)
        self._chunks += [_padded(header + name), _padded(data)]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)

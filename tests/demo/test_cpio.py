"""Archives that our writer makes, read back by the rules of the kernel."""

from hypothesis import given
from hypothesis import strategies as st

from qemud.demo.cpio import CpioWriter

names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)


def read(archive: bytes) -> list[tuple[str, int, bytes]]:
    """The entries of a newc archive, by the kernel's rules: (path, mode, data)."""
    entries: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        assert archive[at + 110 + fields[11] - 1] == 0
        at += (110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            assert at == len(archive)
            return entries
        entries.append((name, fields[1], archive[at : at + fields[6]]))
        at += (fields[6] + 3) & ~3


@given(st.dictionaries(names, st.binary(max_size=50)))
def test_files_come_back(files: dict[str, bytes]) -> None:
    archive = CpioWriter()
    for name, data in files.items():
        archive.file(name, data)
    assert read(archive.finish()) == [(name, 0o100644, data) for name, data in files.items()]


def test_every_kind_of_entry() -> None:
    archive = CpioWriter()
    archive.directory("bin")
    archive.file("bin/busybox", b"ELF", 0o755)
    archive.symlink("bin/sh", "busybox")
    archive.character_device("console", 5, 1)
    assert read(archive.finish()) == [
        ("bin", 0o040755, b""),
        ("bin/busybox", 0o100755, b"ELF"),
        ("bin/sh", 0o120777, b"busybox"),
        ("console", 0o020600, b""),
    ]

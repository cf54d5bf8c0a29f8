"""Sets of descriptors: what a name of the form `/dev/fdset/N` opens, and how long a set lives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from qemud.machine import descriptors
from qemud.machine.descriptors import FdsetError, FdSets, close_file, open_file, read_from_start
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODES = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "both"}


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> Iterator[FdSets]:
    """The sets of the process, empty; what is left in them is closed."""
    fresh = FdSets()
    monkeypatch.setattr(descriptors, "fdsets", fresh)
    yield fresh
    for number in fresh.members():
        fresh.remove(number)


def null(flags: int = os.O_RDONLY) -> int:
    return os.open("/dev/null", flags | os.O_CLOEXEC)


def open_on(file: int) -> int:
    """How many descriptors of this process there are of the file; other tests' threads may open and close others meanwhile."""
    wanted = os.fstat(file)
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.path.samestat(os.fstat(int(name)), wanted)
    return found


def is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def test_the_member_whose_mode_fits_is_duplicated(sets: FdSets, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    for mode in MODES:
        sets.add(os.open(path, mode), 7)
    for mode in MODES:
        fd = open_file("/dev/fdset/7", mode)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == mode
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert os.path.samestat(os.fstat(fd), os.stat(path))
        close_file(fd)
    assert len(sets.members()[7]) == 3


def test_nothing_is_opened_in_another_mode(sets: FdSets) -> None:
    sets.add(null(os.O_RDONLY), 0)
    with pytest.raises(FdsetError) as error:
        open_file("/dev/fdset/0", os.O_WRONLY | os.O_CREAT)
    assert error.value.errno == errno.EACCES
    assert error.value.reason == "Failed to find file descriptor with matching flags=0x41"


def test_the_newest_member_is_taken_first(sets: FdSets, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
        sets.add(os.open(tmp_path / name, os.O_RDONLY), 1)
    fd = open_file("/dev/fdset/1", os.O_RDONLY)
    assert os.read(fd, 9) == b"new"
    close_file(fd)


def test_emptying_begins_at_the_beginning(sets: FdSets, tmp_path: Path) -> None:
    path = tmp_path / "f"
    sets.add(os.open(path, os.O_WRONLY | os.O_CREAT), 1)
    os.write(sets.members()[1][0].fd, b"what was there before")
    fd = open_file("/dev/fdset/1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(fd, b"new")
    close_file(fd)
    assert path.read_bytes() == b"new"


def test_a_pipe_cannot_be_emptied_and_need_not_be(sets: FdSets) -> None:
    reader, writer = os.pipe()
    sets.add(writer, 1)
    fd = open_file("/dev/fdset/1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(fd, b"x")
    assert os.read(reader, 2) == b"x"
    close_file(fd)
    os.close(reader)


def test_a_file_is_read_from_its_start_wherever_its_owner_is(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with open(tmp_path / "f", "rb") as file:
        file.seek(5)
        assert read_from_start(file.fileno(), 8) == b"01234567"
        assert file.tell() == 5


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("/dev/fdset/", errno.EINVAL, "Could not parse fdset /dev/fdset/"),
        ("/dev/fdset/x", errno.EINVAL, "Could not parse fdset /dev/fdset/x"),
        ("/dev/fdset/-1", errno.EINVAL, "Could not parse fdset /dev/fdset/-1"),
        ("/dev/fdset/1/2", errno.EINVAL, "Could not parse fdset /dev/fdset/1/2"),
        ("/dev/fdset/2147483648", errno.EINVAL, "Could not parse fdset /dev/fdset/2147483648"),
        ("/dev/fdset/2147483647", errno.ENOENT, "Failed to find fdset /dev/fdset/2147483647"),
        ("/dev/fdset/007", errno.ENOENT, "Failed to find fdset /dev/fdset/7"),
    ],
)
def test_names_that_open_nothing(sets: FdSets, name: str, number: int, reason: str) -> None:
    assert not sets.members()
    with pytest.raises(FdsetError) as error:
        open_file(name, os.O_RDONLY)
    assert (error.value.errno, error.value.reason) == (number, reason)


@given(st.text(), st.sampled_from([os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR]))
def test_every_other_name_is_an_error_of_the_system(rest: str, flags: int) -> None:
    """Whatever follows the prefix: no exception of another kind, and nothing of that name is made or opened."""
    with pytest.raises(OSError) as error:
        open_file(f"/dev/fdset/{rest}", flags)
    assert error.value.strerror


def test_a_name_with_a_zero_byte_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        open_file("a\0b", os.O_RDONLY)


def test_numbers_are_the_lowest_that_are_free(sets: FdSets) -> None:
    assert [sets.add(null()) for _ in range(3)] == [0, 1, 2]
    sets.remove(1)
    assert sets.add(null(), 5, "five") == 5
    assert sets.add(null()) == 1
    assert list(sets.members()) == [5, 2, 1, 0]
    assert sets.members()[5][0].opaque == "five"


def test_a_negative_number_leaves_the_descriptor_to_the_caller(sets: FdSets) -> None:
    fd = null()
    with pytest.raises(GenericError, match="Parameter 'fdset-id' expects a non-negative value"):
        sets.add(fd, -1)
    assert is_open(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((3,), "fdset-id:3"), ((3, 4), "fdset-id:3, fd:4"), ((0, -1), "fdset-id:0, fd:-1")],
)
def test_what_cannot_be_removed(sets: FdSets, arguments: tuple[int, ...], name: str) -> None:
    sets.add(null(), 0)
    with pytest.raises(GenericError, match=f"^File descriptor named '{name}' not found$"):
        sets.remove(*arguments)


def test_inherited_descriptors_are_moved(sets: FdSets) -> None:
    first, second = null(), null(os.O_RDWR)
    descriptors.inherit([(first, 4, "a"), (first, 5, None), (second, 4, None)])
    assert not is_open(first)
    assert not is_open(second)
    assert [member.opaque for member in sets.members()[4]] == ["a", None]
    assert all(is_open(member.fd) for members in sets.members().values() for member in members)


class Lifetimes(RuleBasedStateMachine):
    """A set is there exactly as long as it has members or something opened through it is open; nothing leaks."""

    numbers = st.integers(0, 3)
    opened: Bundle[tuple[int, int]] = Bundle("opened")

    def __init__(self) -> None:
        super().__init__()
        self.sets = FdSets()
        self.members: dict[int, list[int]] = {}
        self.users: dict[int, set[int]] = {}
        self.file = os.memfd_create("lifetimes")

    @rule(number=numbers)
    def add(self, number: int) -> None:
        fd = os.dup(self.file)
        assert self.sets.add(fd, number) == number
        self.members.setdefault(number, []).append(fd)

    @rule(number=numbers, which=st.none() | st.integers(0, 3))
    def remove(self, number: int, which: int | None) -> None:
        members = self.members.get(number, [])
        fd = None if which is None else members[which] if which < len(members) else 1 << 20
        exists = bool(members or self.users.get(number))
        if not exists or (fd is not None and fd not in members):
            with pytest.raises(GenericError):
                self.sets.remove(number, fd)
            return
        self.sets.remove(number, fd)
        self.members[number] = [] if fd is None else [each for each in members if each != fd]

    @rule(target=opened, number=numbers)
    def open(self, number: int) -> tuple[int, int]:
        if not self.members.get(number):
            with pytest.raises(FdsetError):
                self.sets.open(f"/dev/fdset/{number}", os.O_RDWR)
            return (-1, -1)
        fd = self.sets.open(f"/dev/fdset/{number}", os.O_RDWR)
        self.users.setdefault(number, set()).add(fd)
        return (number, fd)

    @rule(user=consumes(opened))
    def close(self, user: tuple[int, int]) -> None:
        number, fd = user
        if fd >= 0:
            self.sets.forget(fd)
            os.close(fd)
            self.users[number].remove(fd)

    @invariant()
    def agrees(self) -> None:
        alive = [n for n in range(4) if self.members.get(n) or self.users.get(n)]
        found = self.sets.members()
        assert sorted(found) == alive
        for number in alive:
            assert [member.fd for member in found[number]] == self.members.get(number, [])
        ours = sum(map(len, self.members.values())) + sum(map(len, self.users.values()))
        assert open_on(self.file) == 1 + ours

    def teardown(self) -> None:
        for fds in (*self.members.values(), *self.users.values()):
            for fd in fds:
                os.close(fd)
        os.close(self.file)


TestLifetimes = Lifetimes.TestCase

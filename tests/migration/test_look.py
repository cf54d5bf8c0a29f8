"""Whatever a saved machine says, looking at it changes nothing of the machine that is to become it, and ends soon."""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemud.demo import DEMO_GUEST
from qemud.machine.snapshot import memory_of, save_objects
from qemud.migration import memory
from qemud.migration.stream import HEADER_SIZE, Header, Run, begin
from qemud.migration.whole import Found, look
from qemud.qapi.runtime.errors import GenericError
from tests.migration.test_memory import Kept
from tests.system.embed import Machine, embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

BOARD = ("-machine", "virt", "-m", "8", "-display", "none", "-serial", "null", "-kernel", str(DEMO_GUEST))


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine that ran for a moment."""
    with embedded(*BOARD) as machine:
        machine.run(machine.vm.stop())
        yield machine


class Saved:
    """A machine's parts."""

    def __init__(self, machine: Machine) -> None:
        vm = machine.vm
        self.value: dict[str, Any] = machine.call(save_objects, vm, machine.board)
        self.sections = memory_of(vm.memory)
        self.sizes = [section.size for section in self.sections]
        self.runs: list[Run] = machine.run(memory.find_runs(self.sections))

    def stream(self, machine: Machine, value: Any) -> Kept:
        kept = Kept()
        beginning = begin(value, self.runs, self.sizes)
        machine.run(memory.write(kept, beginning, self.sections, self.runs))
        return kept


@pytest.fixture(scope="module")
def saved(machine: Machine) -> Saved:
    return Saved(machine)


def seen(machine: Machine, kept: Kept) -> Found:
    found: Found = machine.run(look(kept, machine.vm, machine.board))
    return found


def looks_without_a_trace(machine: Machine, kept: Kept) -> None:
    """Whatever is found in the state, one line tells of it, and the machine is as it was."""
    before = machine.save()
    try:
        seen(machine, kept)
    except GenericError as error:
        told = str(error)
    else:
        told = ""
    assert "\n" not in told
    assert machine.save() == before


def test_what_was_saved_fits(machine: Machine, saved: Saved) -> None:
    kept = saved.stream(machine, saved.value)
    found = seen(machine, kept)
    assert found.runs == saved.runs
    assert found.value.status.value == "paused"
    before = machine.save()
    machine.run(memory.read(kept, found.position, found.sections, found.runs))
    assert machine.save() == before


def test_memory_in_another_order(machine: Machine, saved: Saved) -> None:
    kept = saved.stream(machine, {**saved.value, "memory": saved.value["memory"][::-1]})
    with pytest.raises(GenericError, match=r"^saved memory is in another order$"):
        seen(machine, kept)


LAWS = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def altered(data: st.DataObject, given: bytes) -> bytes:
    """The same with bytes cut out, doubled or changed."""
    text = bytearray(given)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        end = min(len(text), at + data.draw(st.integers(0, 40)))
        text[at:end] = data.draw(
            st.one_of(
                st.just(b""), st.just(bytes(text[at:end] * 2)), st.binary(max_size=8), st.just(b"9" * 30)
            )
        )
    return bytes(text)


@LAWS
@given(data=st.data())
def test_any_description(machine: Machine, saved: Saved, data: st.DataObject) -> None:
    """Bytes of it are cut out, doubled or changed, by somebody who can compute checksums."""
    text = altered(data, json.dumps(saved.value).encode())
    kept = saved.stream(machine, saved.value)
    header = Header.parse(kept.data[:HEADER_SIZE], kept.size)
    runs = kept.data[HEADER_SIZE + header.description : HEADER_SIZE + header.body_size]
    body = text + runs
    start = -(-(HEADER_SIZE + len(body)) // 4096) * 4096
    total = start + header.total - header.data
    changed = header._replace(description=len(text), data=start, total=total, checksum=zlib.crc32(body))
    kept.data = (changed.pack() + body).ljust(start, b"\0") + kept.data[header.data :]
    looks_without_a_trace(machine, kept)


@LAWS
@given(data=st.data())
def test_any_bytes(machine: Machine, saved: Saved, data: st.DataObject) -> None:
    """The beginning is overwritten, and the end may be missing."""
    kept = saved.stream(machine, saved.value)
    start = data.draw(st.integers(0, 200))
    bits = data.draw(st.binary(max_size=16))
    kept.data = kept.data[:start] + bits + kept.data[start + len(bits) :]
    if data.draw(st.booleans(), label="sealed"):
        head = kept.data[: HEADER_SIZE - 4]
        kept.data = head + struct.pack(">I", zlib.crc32(head)) + kept.data[HEADER_SIZE:]
    kept.data = kept.data[: data.draw(st.sampled_from([len(kept.data), 0, 63, 64, 5000, len(kept.data) - 1]))]
    looks_without_a_trace(machine, kept)

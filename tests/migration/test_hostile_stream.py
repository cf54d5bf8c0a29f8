"""Whatever comes in the place of a machine: one line tells what is wrong with it, and nothing else happens."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemud._generated.types.migration import MigrationInfo, MigrationStatus
from qemud._generated.types.run_state import RunState
from qemud.demo import DEMO_GUEST
from qemud.machine.snapshot import describe_memory, memory_of, save_objects, type_of
from qemud.migration import live
from qemud.migration.channel import Channel
from qemud.migration.incoming import Incoming
from qemud.migration.live import Section, begin
from qemud.migration.passes import Tracker
from qemud.migration.stream import HEADER_SIZE
from qemud.migration.transport import Gate
from qemud.qapi.runtime.errors import GenericError
from tests.migration.test_look import altered
from tests.system.embed import Machine, embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BOARD = ("-machine", "virt", "-m", "8", "-display", "none", "-serial", "null", "-kernel", str(DEMO_GUEST))


class Given(Channel):
    """A connection on which all has come already; it keeps what is answered."""

    name = "test"
    two_way = True

    def __init__(self, data: bytes) -> None:
        super().__init__(-1)
        self._left = memoryview(data)
        self.answer = b""

    async def read(self, view: memoryview) -> int:
        part = self._left[: len(view)]
        view[: len(part)] = part
        self._left = self._left[len(part) :]
        return len(part)

    async def write(self, parts: Sequence[bytes | memoryview]) -> None:
        self.answer += b"".join(parts)

    def _close(self) -> None:
        pass


class Parts:
    """A machine as it is sent."""

    def __init__(self, machine: Machine) -> None:
        vm = machine.vm
        regions = memory_of(vm.memory)
        self.sizes = [region.size for region in regions]
        self.offer: dict[str, Any] = {
            "machine": type_of(machine.board),
            "memory": [
                {"name": item.name, "base": item.base, "size": item.size}
                for item in describe_memory(vm.memory)
            ],
        }
        self.memory = [part for batch in Tracker(regions).look() for part in batch.parts]
        self.value: dict[str, Any] = machine.call(save_objects, vm, machine.board)

    def stream(self, value: Any = None, *, answer: bool = False) -> bytes:
        state = json.dumps(self.value if value is None else value).encode()
        parts = [begin(self.offer, wants_answer=answer), *self.memory, Section.of_state(state).pack(), state]
        return b"".join([*parts, Section(live.END).pack(), Section(live.GO).pack() if answer else b""])


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine that ran for a moment."""
    with embedded(*BOARD) as machine:
        machine.run(machine.vm.stop())
        yield machine


@pytest.fixture(scope="module")
def parts(machine: Machine) -> Parts:
    return Parts(machine)


def arrive(machine: Machine, stream: bytes) -> tuple[str, bytes]:
    """Receive it: what was wrong, and what was answered."""
    vm = machine.vm
    vm.state, vm.autostart = RunState.INMIGRATE, False
    channel = Given(stream)
    incoming = Incoming(machine.daemon.services.migration)
    machine.run(incoming._run(Gate(channel), exit_on_error=False))
    info = MigrationInfo()
    incoming.describe(info)
    if info.status is MigrationStatus.COMPLETED:
        assert vm.state is not RunState.INMIGRATE
        return "", channel.answer
    assert (info.status, vm.state) == (MigrationStatus.FAILED, RunState.INMIGRATE)
    told = info.error_desc or ""
    assert told.startswith("load of migration failed: ")
    assert "\n" not in told
    assert "Internal error" not in told
    return told, channel.answer


@pytest.mark.parametrize("answer", [False, True], ids=["one-way", "return-path"])
def test_what_was_sent_arrives(machine: Machine, answer: bool) -> None:
    """And is what it was, byte for byte; what was in memory before is gone."""
    parts, before = Parts(machine), machine.save()
    region = memory_of(machine.vm.memory)[-1]
    view = region.view(region.base, region.size)
    assert not view[-1]
    view[-1] = 1
    told, answered = arrive(machine, parts.stream(answer=answer))
    assert told == ""
    assert answered == (live.pack_answer("") if answer else b"")
    after = machine.save()
    assert after.memory == before.memory
    assert after.value["objects"] == before.value["objects"]


def test_without_the_last_word(machine: Machine, parts: Parts) -> None:
    """It has everything, and does not run."""
    told, answered = arrive(machine, parts.stream(answer=True)[: -live.SECTION_SIZE])
    assert told == "load of migration failed: Input/output error"
    assert answered == live.pack_answer("")


def test_a_refusal_is_answered(machine: Machine, parts: Parts) -> None:
    told, answered = arrive(machine, parts.stream({**parts.value, "clock": 1 << 63}, answer=True))
    refused, length = live.parse_answer(answered[: live.ANSWER_SIZE])
    assert refused
    assert told.endswith(answered[live.ANSWER_SIZE :].decode())
    assert length == len(answered) - live.ANSWER_SIZE


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"nonsense" * 2, "none"),
        (b"qemudan\n" + bytes([0, 0, 0, 2, 0, 0, 0, 0]), "none"),
        (b"qemudan\n" + bytes([0, 0, 0, 1, 0, 1, 0, 0]), "none"),
        (b"qemudan\n" + bytes([0, 0, 0, 0, 0, 0, 0, 1]), "none"),
    ],
)
def test_answers_that_are_none(raw: bytes, reason: str) -> None:
    with pytest.raises(GenericError, match=reason):
        live.parse_answer(raw)


LAWS = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
KINDS = st.integers(0, 7)
NUMBERS = st.one_of(st.integers(0, 5), st.integers(0, (1 << 32) - 1))


@LAWS
@given(data=st.data())
def test_any_sections(machine: Machine, parts: Parts, data: st.DataObject) -> None:
    """By somebody who can compute checksums: regions, pieces and lengths that there are or are not, in any order."""
    stream = begin(parts.offer, wants_answer=data.draw(st.booleans()))
    state = json.dumps(parts.value).encode()
    for _ in range(data.draw(st.integers(0, 6))):
        section = Section(
            data.draw(KINDS), data.draw(NUMBERS), data.draw(NUMBERS), data.draw(NUMBERS), data.draw(NUMBERS)
        )
        if data.draw(st.booleans(), label="a state"):
            section = Section.of_state(state)
            stream += section.pack() + state
        else:
            stream += section.pack() + data.draw(st.sampled_from([b"", bytes(65536), bytes(65536 * 5)]))
    arrive(machine, stream)


@LAWS
@given(data=st.data())
def test_any_state(machine: Machine, parts: Parts, data: st.DataObject) -> None:
    """Bytes of it are cut out, doubled or changed, and the checksum is right."""
    raw = altered(data, json.dumps(parts.value).encode())
    sections = [Section.of_state(raw).pack(), raw, Section(live.END).pack()]
    arrive(machine, b"".join([begin(parts.offer, wants_answer=False), *sections]))


@LAWS
@given(data=st.data())
def test_any_bytes(machine: Machine, parts: Parts, data: st.DataObject) -> None:
    """Something is overwritten, and the end may be missing."""
    stream = parts.stream(answer=data.draw(st.booleans()))
    at = data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(stream))))
    bits = data.draw(st.binary(max_size=16))
    stream = stream[:at] + bits + stream[at + len(bits) :]
    if data.draw(st.booleans(), label="sealed"):
        head = stream[: HEADER_SIZE - 4]
        stream = head + zlib.crc32(head).to_bytes(4, "big") + stream[HEADER_SIZE:]
    ends = [len(stream), 0, 63, 64, 500, 70_000, len(stream) - 1]
    arrive(machine, stream[: data.draw(st.sampled_from(ends))])

"""Loading looks at everything first: whatever is wrong with a saved machine, the machine that refuses it is as it was."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemud._generated.types.cpu_riscv import RiscvCpuState
from qemud._generated.types.run_state import RunState
from qemud.demo import DEMO_GUEST
from qemud.machine.snapshot import CHUNK, Snapshot
from qemud.qapi.runtime.errors import GenericError
from tests.system.embed import Machine, embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system

BOARD = (
    *("-machine", "virt", "-m", "8", "-display", "none", "-serial", "null", "-kernel", str(DEMO_GUEST)),
    # What runs from odd registers may end itself.
    *("-action", "panic=none", "-action", "shutdown=pause"),
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine that ran for a moment."""
    with embedded(*BOARD) as machine:
        machine.run(machine.vm.stop())
        yield machine


@pytest.fixture(scope="module")
def good(machine: Machine) -> Snapshot:
    return machine.save()


def changed(good: Snapshot, change: Any) -> Snapshot:
    """A copy with a change to its value; memory is shared."""
    value = copy.deepcopy(good.value)
    change(value)
    return good._replace(value=value)


def refused(machine: Machine, saved: Snapshot) -> str:
    """The reason why a machine refuses what is saved, and has not changed at all."""
    before = machine.save()
    with pytest.raises(GenericError) as refusal:
        machine.load(saved)
    assert machine.save() == before
    text = str(refusal.value)
    assert "\n" not in text
    return text


def of_hart(value: dict[str, Any]) -> dict[str, Any]:
    """The processor's record."""
    [found] = [item for item in value["objects"] if item["path"] == HART]
    assert isinstance(found, dict)
    return found


def state(value: dict[str, Any], path: str) -> dict[str, Any]:
    [found] = [item["state"] for item in value["objects"] if item["path"] == path]
    assert isinstance(found, dict)
    return found


HART = "/machine/soc0/harts[0]"
UART = "/machine/uart0"
PLIC = "/machine/plic"


@pytest.mark.parametrize(
    ("path", "change", "reason"),
    [
        (HART, {"priv": 2}, "'priv' is 0x2, which no processor has"),
        (HART, {"satp": 5 << 60}, "'satp' is 0x5000000000000000, which no processor has"),
        (HART, {"frm": 8}, "'frm' is 0x8, which no processor has"),
        (HART, {"x": [0] * 31}, "'x' has 31 registers, expected 32"),
        (HART, {"x": [1] + [0] * 31}, "'x0' is 0x1, which no processor has"),
        (HART, {"f": [0] * 33}, "'f' has 33 registers, expected 32"),
        (HART, {"pmpcfg": [256] * 16}, " expects uint8_t"),
        (HART, {"mip": 1 << 63}, "'mip' is 0x8000000000000000, which no processor has"),
        (HART, {"mstatus": "0"}, "Parameter 'mstatus' expects uint64"),
        (UART, {"recv-fifo": [0] * 17}, "'recv-fifo' has 17 characters, expected at most 16"),
        (UART, {"ier": -1}, "Parameter 'ier' expects uint8_t"),
        (PLIC, {"priority": [0]}, "'priority' has 1 elements, expected 96"),
        ("/machine/mtimer0", {"timecmp": []}, "'timecmp' has 0 elements, expected 1"),
        ("/machine/mswi0", {"msip": [2]}, "'msip' is not 1 times 0 or 1"),
        ("/machine/rtc", {"irq-pending": 1}, "Invalid parameter type for 'irq-pending', expected: boolean"),
        ("/machine/sbi", {"nonsense": 0}, "Parameter 'nonsense' is unexpected"),
    ],
)
def test_a_state_that_nothing_can_be_in(
    machine: Machine, good: Snapshot, path: str, change: dict[str, Any], reason: str
) -> None:
    told = refused(machine, changed(good, lambda saved: state(saved, path).update(change)))
    assert told.startswith(f"saved state of '{path}' (")
    assert reason in told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value.update(clock=-1), "Parameter 'clock' expects uint64"),
        (
            lambda value: value.update(clock=1 << 63),
            "the saved machine's clock is 9223372036854775808, expected 0 to 4611686018427387903",
        ),
        (
            lambda value: value.update(status="dreaming"),
            "Parameter 'status' does not accept value 'dreaming'",
        ),
        (lambda value: value.pop("memory"), "Parameter 'memory' is missing"),
        (
            lambda value: value["memory"].pop(),
            "saved memory has no 'riscv_virt_board.ram', which this machine has",
        ),
        (
            lambda value: value["memory"].append(value["memory"][0]),
            "saved memory 'riscv_virt_board.mrom' is not in this machine, or is there twice",
        ),
        (
            lambda value: value["objects"].append(of_hart(value)),
            "saved state has '/machine/soc0/harts[0]' twice",
        ),
        (
            lambda value: value["objects"].pop(),
            "saved state has no '/machine/sbi', which this machine has",
        ),
        (
            lambda value: of_hart(value).update(version=2),
            "saved state of '/machine/soc0/harts[0]' (rv64-riscv-cpu) has version 2, version 1 is expected",
        ),
        (
            lambda value: of_hart(value).update(type="max-riscv-cpu"),
            "saved state of '/machine/soc0/harts[0]' is of a max-riscv-cpu, here it is a rv64-riscv-cpu",
        ),
    ],
)
def test_a_machine_that_is_not_this_one(machine: Machine, good: Snapshot, change: Any, reason: str) -> None:
    assert refused(machine, changed(good, change)) == reason


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        ({1: b"x"}, "has a piece at 0x1"),
        ({-CHUNK: bytes(CHUNK)}, "has a piece at -0x100000"),
        ({8 * CHUNK: bytes(CHUNK)}, "has a piece at 0x800000"),
        ({0: b"x"}, "has 1 bytes at 0x0"),
    ],
)
def test_memory_that_does_not_fit(
    machine: Machine, good: Snapshot, piece: dict[int, bytes], reason: str
) -> None:
    memory = {**good.memory, "riscv_virt_board.ram": piece}
    told = refused(machine, good._replace(memory=memory))
    assert told == f"saved memory 'riscv_virt_board.ram' {reason}"
    del memory["riscv_virt_board.ram"]
    assert (
        refused(machine, good._replace(memory=memory)) == "saved memory 'riscv_virt_board.ram' has no content"
    )


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 1 << 64),
    st.sampled_from([1 << 8, 1 << 16, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
    st.text(max_size=3),
    st.lists(st.integers(0, 300), max_size=100),
    st.dictionaries(st.sampled_from(["pc", "path"]), st.integers(0, 1), max_size=1),
)

LAWS = settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def try_to_load(machine: Machine, good: Snapshot, value: dict[str, Any]) -> None:
    """It is refused, and then nothing has changed; or it is taken, and then it is a machine: it runs, can be saved, and loaded again."""
    before = machine.save()
    try:
        machine.load(good._replace(value=value))
    except GenericError:
        assert machine.save() == before
        return
    taken = machine.save()
    machine.load(taken)
    assert machine.save() == taken
    if value["status"] in {"paused", "running", "prelaunch"}:
        machine.run(run_for_a_moment(machine))
        assert machine.vm.state in {RunState.PAUSED, RunState.SHUTDOWN}
        machine.load(machine.save())
    machine.load(good)
    assert machine.save().value["objects"] == good.value["objects"]


async def run_for_a_moment(machine: Machine) -> None:
    """Some thousand instructions."""
    await machine.vm.cont()
    for _ in range(20):
        await machine.vm.mailboxes.call(int)
    await machine.vm.stop()


@LAWS
@given(data=st.data())
def test_whatever_was_changed_is_taken_or_refused_as_a_whole(
    machine: Machine, good: Snapshot, data: st.DataObject
) -> None:
    value = copy.deepcopy(good.value)
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        place: Any = value
        while True:
            key = data.draw(st.sampled_from(range(len(place)) if isinstance(place, list) else sorted(place)))
            if (
                isinstance(place[key], dict | list)
                and place[key]
                and data.draw(st.integers(0, 3), label="deeper")
            ):
                place = place[key]
            else:
                break
        place[key] = data.draw(ODD, label=f"new {key}")
    try_to_load(machine, good, value)


WORD = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 63).map(lambda bit: 1 << bit),
    st.integers(0, 4095).map(lambda offset: 0x8020_0000 + offset),
    st.builds(lambda mode, ppn: mode << 60 | ppn, st.integers(8, 10), st.integers(0, 1 << 20)),
)
BYTE = st.integers(0, 255)
REGISTERS = {
    "priv": st.sampled_from([0, 1, 3]),
    "halted": st.booleans(),
    "x": st.lists(WORD, min_size=31, max_size=31).map(lambda words: [0, *words]),
    "f": st.lists(WORD, min_size=32, max_size=32),
    "frm": st.integers(0, 7),
    "fflags": st.integers(0, 31),
    "mip": st.integers(0, 0xFFF),
    "pmpcfg": st.lists(BYTE, min_size=16, max_size=16),
    "pmpaddr": st.lists(WORD, min_size=16, max_size=16),
}


CHANGES = st.lists(
    st.sampled_from(sorted(RiscvCpuState.__struct_encode_fields__)), min_size=1, max_size=6, unique=True
).flatmap(lambda names: st.fixed_dictionaries({name: REGISTERS.get(name, WORD) for name in names}))


@settings(LAWS, max_examples=100)
@given(changes=CHANGES)
def test_whatever_the_registers_are_the_engine_lives(
    machine: Machine, good: Snapshot, changes: dict[str, Any]
) -> None:
    value = copy.deepcopy(good.value)
    state(value, HART).update(changes)
    try_to_load(machine, good, value)

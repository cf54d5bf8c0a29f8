"""Three-phase reset over the tree, bringing up and taking down, and saving by value."""

from __future__ import annotations

import copy
import importlib
import json
import pkgutil
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qemud._generated.types as generated
from qemud._generated.types.hw_riscv import GoldfishRtcState
from qemud.machine.irq import Irq
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.wire import to_wire
from qemud.qom.device import reset_tree
from qemud.qom.state import load_tree, save_tree
from tests.qom.machines import Board, HotBus, Hub, Part, Plug, Recorder, Registers, Services, Vm

# -- reset ---------------------------------------------------------------------------------------------------------------


def test_every_phase_ends_everywhere_before_the_next_begins(services: Services) -> None:
    hub = services.board.hub
    for name in ("p", "q"):
        hub.add_child(name, Plug()).bring_up(services.vm, hub.hot)
    Recorder.log.clear()
    reset_tree(services.board)
    order = ["part", "p", "part", "q", "hub"]
    assert Recorder.log == [f"{phase} {name}" for phase in ("enter", "hold", "exit") for name in order]


def test_what_is_not_realized_is_not_reset(services: Services) -> None:
    services.board.add_child("later", Plug())
    reset_tree(services.board)
    assert {entry.split()[1] for entry in Recorder.log} == {"hub"}


def test_buses_are_reset_too(services: Services) -> None:
    class Noted(HotBus):
        def reset_enter(self) -> None:
            Recorder.log.append("enter bus")

    hub = Hub()
    hub.add_child("noted", Noted("noted"))
    services.board.add_child("second", hub).bring_up(services.vm)
    Recorder.log.clear()
    reset_tree(hub)
    assert Recorder.log == ["enter bus", "enter second", "hold second", "exit second"]


# -- bringing up and taking down -----------------------------------------------------------------------------------------


def test_a_board_that_fails_leaves_nothing_realized() -> None:
    Recorder.failing.clear()
    Recorder.log.clear()

    class Broken(Board):
        def build(self) -> None:
            super().build()
            self.add_child("second", Registers()).map(0, 0x1800)

    vm = Vm()
    board = Broken()
    with pytest.raises(GenericError) as caught:
        board.bring_up(vm)
    assert "second" in str(caught.value) or "registers" in str(caught.value)
    assert list(vm.memory) == []
    assert Recorder.log == ["realize hub", "unrealize hub"]
    assert board.sysbus.devices == []


def test_registers_are_mapped_while_the_device_lives(services: Services) -> None:
    vm, device = services.vm, services.board.registers
    assert vm.memory.read_physical(0x1010, 4) == (0x10).to_bytes(4, "little")
    device.map(0, 0x4000)
    assert vm.memory.find(0x1000) is None
    assert vm.memory.read_physical(0x4010, 1) == b"\x10"
    device.take_down()
    assert list(vm.memory) == []
    device.bring_up(vm, services.board.sysbus)
    assert vm.memory.find(0x4000) is not None


def test_a_conflict_of_registers_names_both_and_undoes_the_device(services: Services) -> None:
    second = services.board.add_child("second", Registers())
    second.map(0, 0x1FFF)
    with pytest.raises(GenericError, match=r"/machine/second/registers.*/machine/registers/registers"):
        second.bring_up(services.vm, services.board.sysbus)
    assert not second.realized
    assert second.bus is None
    assert len(list(services.vm.memory)) == 1


def test_lines_lead_where_they_are_connected(services: Services) -> None:
    heard: list[tuple[int, int]] = []
    device = services.board.registers
    device.irqs[0].set(1)
    device.irqs[0].pulse()
    device.connect(0, Irq(lambda n, level: heard.append((n, level)), 5))
    device.irqs[0].raise_()
    device.irqs[0].lower()
    device.irqs[1].raise_()
    assert heard == [(5, 1), (5, 0)]


# -- state of trees ------------------------------------------------------------------------------------------------------


def plugged() -> Services:
    services = Services()
    hub = services.board.hub
    hub.add_child("p", Plug()).bring_up(services.vm, hub.hot)
    return services


def part_of(services: Services) -> Part:
    part = services.tree.get("/machine/hub/p/part")
    assert isinstance(part, Part)
    return part


def test_a_tree_is_saved_by_value_and_loaded_into_another() -> None:
    Recorder.failing.clear()
    services = plugged()
    part_of(services).state.alarm_next = 77
    saved = save_tree(services.board)
    assert saved.keys() == {"/machine/hub/p", "/machine/hub/p/part"}
    assert saved["/machine/hub/p/part"]["type"] == "test-part"
    assert saved["/machine/hub/p/part"]["version"] == 1
    part_of(services).state.alarm_next = 78
    assert saved["/machine/hub/p/part"]["state"]["alarm-next"] == 77

    other = plugged()
    Recorder.log.clear()
    load_tree(other.board, json.loads(json.dumps(saved)))
    assert part_of(other).state.alarm_next == 77
    assert Recorder.log == ["loaded part"]
    assert save_tree(other.board) == saved
    device = part_of(other)
    device.load(device.save())
    assert save_tree(other.board) == saved


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda saved: saved.pop("/machine/hub/p"),
            "saved state has no '/machine/hub/p', which this machine has",
        ),
        (
            lambda saved: saved.update({"/machine/x": {}}),
            "saved state has '/machine/x', which this machine has not",
        ),
        (
            lambda saved: saved.update({"/machine/hub/p": 1}),
            "saved state of '/machine/hub/p' is not an object with type, version and state",
        ),
        (
            lambda saved: saved["/machine/hub/p"].update(type="serial-mm"),
            "saved state of '/machine/hub/p' is of a serial-mm, here it is a test-plug",
        ),
        (
            lambda saved: saved["/machine/hub/p"].update(version=2),
            "saved state of '/machine/hub/p' (test-plug) has version 2, version 1 is expected",
        ),
        (
            lambda saved: saved["/machine/hub/p"].update(version=True, state=[]),
            "saved state of '/machine/hub/p' (test-plug) has version True, version 1 is expected",
        ),
        (
            lambda saved: saved["/machine/hub/p"].update(state=[]),
            "saved state of '/machine/hub/p' (test-plug): the state is not an object",
        ),
        (
            lambda saved: saved["/machine/hub/p/part"]["state"].update({"alarm-next": -1}),
            "saved state of '/machine/hub/p/part' (test-part): Parameter 'alarm-next' expects uint64",
        ),
        (
            lambda saved: saved["/machine/hub/p/part"]["state"].update({"alarm": 1}),
            "saved state of '/machine/hub/p/part' (test-part): Parameter 'alarm' is unexpected",
        ),
        (
            lambda saved: saved["/machine/hub/p/part"]["state"].update({"alarm-running": True}),
            "saved state of '/machine/hub/p/part' (test-part): an alarm that runs has a time",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Any, text: str) -> None:
    Recorder.failing.clear()
    services = plugged()
    saved = save_tree(services.board)
    wrong = copy.deepcopy(saved)
    wrong["/machine/hub/p"]["state"]["time-high"] = 5
    change(wrong)
    Recorder.log.clear()
    with pytest.raises(GenericError) as caught:
        load_tree(services.board, wrong)
    assert str(caught.value) == text
    assert save_tree(services.board) == saved
    assert Recorder.log == []


def test_a_single_object_refuses_a_wrong_state_too() -> None:
    device = Part(None)
    with pytest.raises(GenericError, match="Parameter 'time-high' expects"):
        device.load({"time-high": 1 << 32})
    assert device.state == GoldfishRtcState()


# -- state structs -------------------------------------------------------------------------------------------------------


def state_structs() -> list[type[msgspec.Struct]]:
    found = []
    for info in pkgutil.iter_modules(generated.__path__):
        module = importlib.import_module(f"{generated.__name__}.{info.name}")
        found += [
            each
            for each in vars(module).values()
            if isinstance(each, type)
            and issubclass(each, msgspec.Struct)
            and "__state_version__" in each.__dict__
        ]
    return found


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a generated annotation, bounds and all."""
    if get_origin(annotation) is Annotated:
        kind, *metas = get_args(annotation)
        if kind is int:
            low = max((meta.ge for meta in metas if meta.ge is not None), default=-(1 << 63))
            high = min((meta.le for meta in metas if meta.le is not None), default=(1 << 64) - 1)
            return st.integers(low, high) | st.sampled_from([low, high])
        return values_of(kind)
    if get_origin(annotation) in {Union, UnionType}:
        return st.one_of([values_of(each) for each in get_args(annotation)])
    if get_origin(annotation) is list:
        return st.lists(values_of(get_args(annotation)[0]), max_size=5)
    if annotation is NoneType:
        return st.none()
    if annotation is Any:
        return st.dictionaries(st.text(max_size=3), st.booleans() | st.integers(0, 9), max_size=3)
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(-(1 << 63), (1 << 63) - 1)
    if annotation is str:
        return st.text(max_size=5)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return structs(annotation)
    raise AssertionError(f"no values of {annotation!r}")


def structs(struct: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(struct, include_extras=True)
    return st.builds(struct, **{name: values_of(hints[name]) for name in struct.__struct_fields__})


@pytest.mark.parametrize("struct", state_structs(), ids=lambda each: each.__name__)
def test_every_state_survives_being_written_down(struct: type[msgspec.Struct]) -> None:
    @settings(max_examples=25, deadline=None)
    @given(structs(struct))
    def check(state: msgspec.Struct) -> None:
        written = json.loads(json.dumps(to_wire(state)))
        assert parse_type(struct.__name__, written) == state

    check()


def test_there_are_states() -> None:
    assert {"Ns16550aState", "SifivePlicState", "GoldfishRtcState"} <= {
        struct.__name__ for struct in state_structs()
    }

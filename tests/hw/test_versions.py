"""Versions of boards: typed overlays of property values, and who gave which value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.boards import MachineType
from qemud._generated.types.qom import PropertyProvenance
from qemud.daemon.machine import NEWEST
from qemud.hw import versions
from qemud.hw.boards import BOARDS
from qemud.qapi.runtime.check import parse_type
from qemud.qom.properties import Provenance
from qemud.qom.types import types

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

BOARD = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-S")


def provenances(program: Program, path: str) -> dict[str, tuple[Any, str]]:
    (listed,) = program.qmp.command("qom-list-get", paths=[path], provenance=True)
    return {
        value["name"]: (value.get("value"), value["provenance"])
        for value in listed["properties"]
        if "provenance" in value
    }


@pytest.mark.parametrize("name", versions.VERSIONS)
def test_every_value_is_of_its_propertys_type(name: str):
    for type_name, property_name, value in versions.overlay_of(name):
        entry = types.entry(type_name)
        assert entry is not None
        given = {each.name: each for each in types.properties(type_name)}[property_name]
        assert given.writable
        assert parse_type(given.type, value) == value
        assert value != given.default, "it would say nothing"


def test_names_of_versions_are_those_of_boards():
    names = {board.name for board in BOARDS}
    assert names >= versions.VERSIONS.keys()
    assert {board.alias: board.name for board in BOARDS if board.alias} == NEWEST
    assert {kind.value for kind in MachineType} == names | NEWEST.keys()
    assert {each.value for each in PropertyProvenance} == {each.value for each in Provenance}


def test_a_version_stands_on_another(monkeypatch: pytest.MonkeyPatch):
    chain = {
        "new": (None, (("a", "x", 1), ("a", "y", 1))),
        "old": ("new", (("a", "x", 2),)),
        "oldest": ("old", (("b", "z", True),)),
    }
    monkeypatch.setattr(versions, "VERSIONS", chain)
    assert versions.overlay_of("oldest") == (("a", "x", 1), ("a", "y", 1), ("a", "x", 2), ("b", "z", True))
    assert versions.overlay_of("nothing") == ()


@pytest.mark.parametrize("board", ["virt", "virt-10.0"])
def test_the_values_of_a_version_are_in_the_machine(daemon: Starter, board: str):
    program = daemon(*BOARD, "-machine", board)
    machines = program.qmp.command("query-machines", **{"compat-props": True})
    (virt,) = [machine for machine in machines if machine["name"] == "virt-10.0"]
    assert {"qom-type": "serial-mm", "property": "baudbase", "value": "399193"} in virt["compat-props"]
    assert provenances(program, "/machine/uart0")["baudbase"] == (399193, "machine-version")
    assert all("compat-props" not in machine for machine in program.qmp.command("query-machines"))


def test_who_gave_a_value(daemon: Starter):
    program = daemon(
        *BOARD,
        *("-global", "serial-mm.baudbase=5", "-global", "riscv.sifive.plic.num-sources=7"),
        *("-object", "memory-backend-ram,id=m0,size=4096"),
    )
    assert provenances(program, "/machine/uart0")["baudbase"] == (5, "global")
    # The board wires its parts as it must.
    assert provenances(program, "/machine/plic")["num-sources"] == (96, "machine")
    memory = provenances(program, "/objects/m0")
    assert (memory["size"], memory["merge"]) == ((4096, "user"), (True, "default"))
    program.qmp.command("qom-set", path="/objects/m0", property="merge", value=False)
    assert provenances(program, "/objects/m0")["merge"] == (False, "user")
    (plain,) = program.qmp.command("qom-list-get", paths=["/objects/m0"])
    assert all("provenance" not in value for value in plain["properties"])

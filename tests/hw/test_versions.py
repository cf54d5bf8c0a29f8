"""Versions of boards: typed overlays of property values, and who gave which value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.boards import MachineType
from qemud._generated.types.qom import PropertyProvenance
from qemud.hw import versions
from qemud.hw.boards import BOARDS
from qemud.hw.boot.fdt import Node, cells, unflatten
from qemud.hw.riscv.device_tree import NEWEST
from qemud.qapi.runtime.check import parse_type
from qemud.qom.properties import Provenance
from qemud.qom.types import types

if TYPE_CHECKING:
    from pathlib import Path

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
    assert {board.alias: board.name for board in BOARDS if board.alias} == versions.NEWEST
    assert {kind.value for kind in MachineType} == names | versions.NEWEST.keys()
    assert {each.value for each in PropertyProvenance} == {each.value for each in Provenance}


def test_the_newest_version_is_what_a_board_without_versions_would_be():
    said = {
        name: value for type_name, name, value in versions.overlay_of("virt-10.0") if type_name != "serial-mm"
    }
    assert said == {f"x-fdt-{name.replace('_', '-')}": value for name, value in NEWEST._asdict().items()}


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


def tree_of(daemon: Starter, path: Path, board: str, *options: str) -> Node:
    """What the board tells its guest."""
    program = daemon(*BOARD, "-machine", board, *options)
    program.qmp.command("dumpdtb", filename=str(path))
    return unflatten(path.read_bytes())


def test_versions_tell_guests_what_those_of_qemu_told(daemon: Starter, tmp_path: Path):
    told = {}
    for board in ("virt", "virt-9.2", "virt-8.2", "virt-7.2", "virt-9.2,x-fdt-serial-alias=on"):
        tree = tree_of(daemon, tmp_path / "blob", board)
        cpu, plic = tree.find("/cpus/cpu@0"), tree.find("/soc/plic@c000000")
        assert cpu is not None
        assert plic is not None
        assert "riscv,isa" in cpu
        told[board] = (tree.find("/aliases") is not None, "riscv,isa-extensions" in cpu, plic["riscv,ndev"])
    assert told == {
        "virt": (True, True, cells(95)),
        "virt-9.2": (False, True, cells(95)),
        "virt-8.2": (False, False, cells(95)),
        "virt-7.2": (False, False, cells(96)),
        "virt-9.2,x-fdt-serial-alias=on": (True, True, cells(95)),
    }


def test_a_machine_of_an_older_version(daemon: Starter):
    program = daemon(*BOARD, "-machine", "virt-9.2,x-fdt-ndev=31")
    listed = {machine["name"]: machine for machine in program.qmp.command("query-machines")}
    assert (listed["virt-10.0"]["alias"], listed["virt-10.0"]["is-default"]) == ("virt", True)
    assert listed["virt-9.2"].keys().isdisjoint({"alias", "is-default"})
    assert program.qmp.command("qom-get", path="/machine", property="type") == "virt-9.2-machine"
    values = provenances(program, "/machine")
    assert values["x-fdt-serial-alias"] == (False, "machine-version")
    assert values["x-fdt-isa-extensions"] == (True, "machine-version")
    assert values["x-fdt-ndev"] == (31, "user")
    # The document says what the user said, and the version the rest.
    machine = program.qmp.command("query-config")["machine"]
    assert {name: machine[name] for name in machine if name.startswith("x-") or name == "type"} == {
        "type": "virt-9.2",
        "x-fdt-ndev": 31,
    }


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

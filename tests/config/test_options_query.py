"""`query-command-line-options` knows every option that has parameters, by QEMU's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.properties import STRUCTS
from qemud.daemon.cmdline import OPTIONS
from tests.programs import QmpError

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

NONE = ("-machine", "none", "-display", "none", "-nodefaults")
GROUPS = {"m": "memory", "smp": "smp-opts", "boot": "boot-opts"}
OPEN = {"machine", "accel", "device", "drive", "object", "chardev"}
# Options with parameters that are no group in QEMU, where each is a case of its own.
OWN = {"audiodev", "compat", "display"}


def listed(program: Program) -> dict[str, dict[str, str]]:
    options: list[dict[str, Any]] = program.qmp.command("query-command-line-options")
    return {
        option["option"]: {each["name"]: each["type"] for each in option["parameters"]} for option in options
    }


def test_every_option_with_parameters_is_there(daemon: Starter):
    program = daemon(*NONE)
    found = listed(program)
    with_parameters = {
        name for name, type_, *_ in STRUCTS["CommandLine"] if type_.removesuffix("[]") in STRUCTS
    }
    expected = {name for name in with_parameters | OPEN if not OPTIONS[name].alias}
    assert found.keys() == {GROUPS.get(name, name) for name in expected}
    assert found["memory"] == {"size": "size", "slots": "number", "maxmem": "size"}
    assert found["chardev"]["server"] == "boolean"
    (only,) = program.qmp.command("query-command-line-options", option="memory")
    assert only["option"] == "memory"
    with pytest.raises(QmpError, match="invalid option name: nope"):
        program.qmp.command("query-command-line-options", option="nope")


@pytest.mark.differential
def test_parameters_are_as_in_qemu(daemon: Starter, reference: Starter):
    ours, theirs = listed(daemon(*NONE)), listed(reference(*NONE))
    for name, parameters in ours.items():
        if name not in OWN:
            both = parameters.keys() & theirs[name].keys()
            # QEMU's board has no versions, so nothing to tell them apart, and does not tell of its flash memory.
            assert {each for each in parameters if not each.startswith(("x-fdt-", "pflash"))} == both
            assert {each: theirs[name][each] for each in both} == {each: parameters[each] for each in both}

"""`-compat`: what is deprecated or unstable is refused or left out, as QEMU does it."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud.daemon.cmdline import parse
from qemud.daemon.compat import policy_of
from qemud.qapi.runtime.check import checker
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.policy import Policy
from tests.programs import LIMIT, QEMUD, QmpError

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

NONE = ("-machine", "none", "-display", "none", "-nodefaults")


def refusal(program: Program, name: str, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(QmpError) as caught:
        program.qmp.command(name, **arguments)
    return caught.value.error_class, str(caught.value)


def test_unstable_input_is_refused(daemon: Starter):
    program = daemon(*NONE, "-compat", "unstable-input=reject")
    assert refusal(program, "query-config") == (
        "CommandNotFound",
        "Unstable command query-config disabled by policy",
    )
    assert refusal(program, "qom-list-get", paths=["/"], provenance=False) == (
        "GenericError",
        "Unstable parameter provenance disabled by policy",
    )
    # What is absent was not used, and what is wrong before it is told first.
    assert program.qmp.command("qom-list-get", paths=["/objects"])
    assert refusal(program, "qom-list-get", paths=1, provenance=False) == (
        "GenericError",
        "Invalid parameter type for 'paths', expected: array",
    )
    # A command that could not run now anyway is refused for what it is.
    assert refusal(program, "x-exit-preconfig") == (
        "CommandNotFound",
        "Unstable command x-exit-preconfig disabled by policy",
    )
    # Deprecated is something else.
    program.qmp.command("chardev-add", id="m", backend={"type": "memory", "data": {}})


def test_deprecated_input_is_refused(daemon: Starter):
    program = daemon(*NONE, "-compat", "deprecated-input=reject")
    assert refusal(program, "chardev-add", id="m", backend={"type": "memory", "data": {}}) == (
        "GenericError",
        "Deprecated value memory disabled by policy",
    )
    address = {"type": "unix", "data": {"path": "/nonexistent"}}
    backend = {"type": "socket", "data": {"addr": address, "server": False, "reconnect": 1}}
    assert refusal(program, "chardev-add", id="s", backend=backend) == (
        "GenericError",
        "Deprecated parameter reconnect disabled by policy",
    )
    assert program.qmp.command("query-config")["monitors"]


def test_output_is_left_out(daemon: Starter):
    program = daemon(*NONE, "-compat", "unstable-output=hide", "-compat", "deprecated-output=hide")
    (values,) = program.qmp.command("qom-list-get", paths=["/machine"], provenance=True)
    assert values["properties"]
    assert not any("provenance" in value for value in values["properties"])
    machines = program.qmp.command("query-machines", **{"compat-props": True})
    assert machines
    assert not any("compat-props" in machine for machine in machines)
    # Nothing else is missing.
    assert program.qmp.command("query-name") == {}
    program.qmp.command("quit")
    assert program.qmp.event("SHUTDOWN")["data"]["reason"] == "host-qmp-quit"


def test_the_schema_without_what_is_deprecated(daemon: Starter):
    whole, rest = (
        daemon(*NONE, *more).qmp.command("query-qmp-schema")
        for more in ((), ("-compat", "deprecated-output=hide"))
    )
    hidden = {
        member["name"]
        for entity in whole
        for member in entity.get("members", ())
        if "deprecated" in member.get("features", ())
    }
    assert "reconnect" in hidden
    assert not any(
        "deprecated" in member.get("features", ())
        for entity in rest
        if entity["meta-type"] == "object"
        for member in (entity, *entity["members"])
    )
    assert any("values" in entity for entity in whole)
    assert not any("values" in entity for entity in rest)
    gone = {entity["name"] for entity in whole} - {entity["name"] for entity in rest}
    assert gone == {entity["name"] for entity in whole if "deprecated" in entity.get("features", ())}
    assert "nbd-server-add" in gone


def test_people_see_everything(daemon: Starter):
    program = daemon(*NONE, "-compat", "unstable-input=reject,unstable-output=hide")
    plain = daemon(*NONE)
    for line in ("info mtree", "info registers", "info qtree", "log none"):
        said = [
            each.qmp.command("human-monitor-command", **{"command-line": line}) for each in (program, plain)
        ]
        assert said[0] == said[1]
        assert "disabled by policy" not in said[0]


def test_crash():
    said = '{"execute": "qmp_capabilities"} {"execute": "query-config"}\n'
    command = [QEMUD, *NONE, "-qmp", "stdio", "-compat", "unstable-input=crash"]
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == ""


def test_later_options_replace_earlier_ones():
    line = parse(
        ["-compat", "unstable-input=reject,deprecated-output=hide", "-compat", "unstable-input=accept"]
    )
    assert line.compat is not None
    policy = policy_of(line.compat)
    policy.check_input(("unstable", "deprecated"), "command", "x")
    assert policy.hides(("deprecated",))
    assert not policy.hides(("unstable",))


def test_deprecated_comes_before_unstable():
    policy = Policy({"unstable": "reject", "deprecated": "reject"})
    with pytest.raises(GenericError, match=r"^Deprecated parameter x disabled by policy$"):
        policy.check_input(("unstable", "deprecated"), "parameter", "x")


def test_members_are_hidden_wherever_they_are():
    policy = Policy({}, {"deprecated"})
    address = {"type": "unix", "data": {"path": "/x"}}
    backend = {"type": "socket", "data": {"addr": address, "server": False, "reconnect": 1}}
    given = {"chardevs": [{"id": "s", "backend": backend}], "serial": ["none"]}
    assert policy.shown(checker, "Configuration", given) == {
        "chardevs": [{"id": "s", "backend": {"type": "socket", "data": {"addr": address, "server": False}}}],
        "serial": ["none"],
    }
    assert given["chardevs"][0]["backend"]["data"]["reconnect"] == 1  # type: ignore[index]
    assert Policy({}).shown(checker, "Configuration", given) is given

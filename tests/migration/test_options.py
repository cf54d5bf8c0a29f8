"""What clients choose for migrations: QEMU's answers, and what is kept; and where machines go to, as it is written."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud._generated.types.migration import MigrationChannel, MigrationChannelType
from qemud.migration.address import choose, parse_uri
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.wire import to_wire
from tests.migration.test_snapshots import human
from tests.programs import QEMU, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

NOTHING = ("-machine", "none", "-nodefaults", "-display", "none")
NAMES = ("events", "pause-before-switchover", "late-block-activate", "return-path")
DEFAULTS = {
    "announce-initial": 50,
    "announce-max": 550,
    "announce-rounds": 5,
    "announce-step": 100,
    "max-bandwidth": 134217728,
    "avail-switchover-bandwidth": 0,
    "downtime-limit": 300,
}


def test_what_is_chosen_is_kept(daemon: Starter) -> None:
    qmp = daemon(*NOTHING).qmp
    assert qmp.command("query-migrate") == {}
    assert qmp.command("query-migrate-capabilities") == [
        {"capability": name, "state": False} for name in NAMES
    ]
    given = [{"capability": "events", "state": True}, {"capability": "return-path", "state": True}]
    qmp.command(
        "migrate-set-capabilities", capabilities=[*given, {"capability": "return-path", "state": False}]
    )
    found = {each["capability"]: each["state"] for each in qmp.command("query-migrate-capabilities")}
    assert found == {**dict.fromkeys(NAMES, False), "events": True}
    assert qmp.command("query-migrate-parameters") == DEFAULTS
    qmp.command("migrate-set-parameters", {"max-bandwidth": 9223372036853727232, "downtime-limit": 0})
    with pytest.raises(QmpError):  # and none of them changes
        qmp.command("migrate-set-parameters", {"max-bandwidth": 1, "announce-step": 0})
    changed = {"max-bandwidth": 9223372036853727232, "downtime-limit": 0}
    assert qmp.command("query-migrate-parameters") == {**DEFAULTS, **changed}


STEPS: list[tuple[str, dict[str, Any]]] = [
    ("migrate", {}),
    ("migrate", {"uri": "foo:bar"}),
    ("migrate", {"uri": "foo"}),
    ("migrate", {"uri": ""}),
    ("migrate", {"uri": ":"}),
    ("migrate", {"uri": "unix:"}),
    ("migrate", {"uri": "fd:"}),
    ("migrate", {"uri": "tcp:"}),
    ("migrate", {"uri": "tcp:nothing"}),
    ("migrate", {"uri": "tcp:[::1"}),
    ("migrate", {"uri": "tcp::"}),
    ("migrate", {"uri": "tcp:x:1,ipv4=perhaps"}),
    ("migrate", {"uri": "tcp:x:1,to=x"}),
    ("migrate", {"uri": "file:x,offset=many"}),
    ("migrate", {"uri": "file:x", "resume": True}),
    ("migrate", {"channels": [{}]}),
    ("migrate", {"uri": "fd:nope"}),
    ("query-migrate", {}),
    ("migrate", {"uri": "fd:7"}),
    ("migrate", {"uri": "file:/nowhere/x"}),
    ("query-migrate", {}),
    ("migrate-incoming", {"uri": "tcp:127.0.0.1:0"}),
    ("migrate-continue", {"state": "active"}),
    ("migrate-continue", {"state": "nope"}),
    ("migrate_cancel", {}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "nope", "state": True}]}),
    ("migrate-set-parameters", {"downtime-limit": 2000001}),
    ("migrate-set-parameters", {"announce-initial": 100001}),
    ("migrate-set-parameters", {"announce-max": 100001}),
    ("migrate-set-parameters", {"announce-rounds": 1001}),
    ("migrate-set-parameters", {"announce-step": 0}),
    ("migrate-set-parameters", {"announce-step": 10001}),
    ("migrate-set-parameters", {"max-bandwidth": "x"}),
]
LINES = [
    "migrate foo:bar",
    "migrate",
    "migrate -d unix:",
    "migrate -r fd:x",
    "migrate_cancel",
    "migrate_continue nope",
    "migrate_continue active",
    "migrate_incoming foo:bar",
    "migrate_incoming tcp:127.0.0.1:0",
    "migrate_set_capability nope on",
    "migrate_set_capability events maybe",
    "migrate_set_parameter nope 1",
    "migrate_set_parameter max-bandwidth x",
    "migrate_set_parameter downtime-limit 2000001",
    "migrate_set_capability events on",
    "migrate_set_parameter max-bandwidth 3",
    "migrate_set_parameter avail-switchover-bandwidth 1k",
    "migrate_set_parameter announce-rounds 7",
]


def answers(program: Program) -> list[Any]:
    found: list[Any] = []
    for command, arguments in STEPS:
        try:
            found.append((command, arguments, program.qmp.command(command, arguments)))
        except QmpError as error:
            found.append((command, arguments, error.error_class, str(error)))
    found += [(line, human(program, line)) for line in LINES]
    for listing in ("capabilities", "parameters"):
        known = {*NAMES, *DEFAULTS}
        lines = human(program, f"info migrate_{listing}").splitlines()
        found.append(sorted(line for line in lines if line.partition(":")[0] in known))
    told = human(program, "info migrate").splitlines()
    found.append([line for line in told if line.startswith("Migration")])
    return found


@pytest.mark.differential
@pytest.mark.needs(QEMU)
def test_answers_are_qemus(daemon: Starter, reference: Starter) -> None:
    ours, theirs = answers(daemon(*NOTHING)), answers(reference(*NOTHING))
    for our, their in zip(ours, theirs, strict=True):
        assert our == their


INCOMING: list[tuple[str, dict[str, Any]]] = [
    ("query-status", {}),
    ("migrate", {"uri": "tcp:127.0.0.1:1"}),
    ("migrate-incoming", {}),
    ("migrate-incoming", {"uri": "foo:bar"}),
    ("migrate-incoming", {"uri": "fd:nope"}),
]


@pytest.mark.differential
@pytest.mark.needs(QEMU)
@pytest.mark.parametrize("last", ["stop", "cont", "system_reset", "migrate_cancel", "x-exit-preconfig"])
def test_waiting_as_qemu_does(daemon: Starter, reference: Starter, last: str) -> None:
    found = []
    for start in (daemon, reference):
        program = start(*NOTHING, "-incoming", "defer")
        replies: list[Any] = []
        for command, arguments in [*INCOMING[:4], (last, {}), ("query-status", {}), INCOMING[4]]:
            try:
                replies.append(program.qmp.command(command, arguments))
            except QmpError as error:
                replies.append(str(error))
        found.append(replies)
    assert found[0] == found[1]


@pytest.mark.differential
@pytest.mark.needs(QEMU)
@pytest.mark.parametrize(
    "options",
    [
        ("-incoming", "foo:bar"),
        ("-incoming", "tcp:x"),
        ("-incoming", "{}"),
        ("-incoming", "file:/nowhere/x"),
        ("-incoming", "defer", "-loadvm", "x"),
        ("-incoming", "fd:7", "-preconfig"),
    ],
    ids=" ".join,
)
def test_refused_at_the_start_as_in_qemu(
    daemon: Starter, reference: Starter, options: tuple[str, ...]
) -> None:
    said = []
    for start in (daemon, reference):
        program = start(*NOTHING, *options, qmp=False)
        assert program.wait() == 1
        said.append(program.stderr.partition(": ")[2])
    assert said[0] == said[1]


def test_the_human_monitor_shows_what_has_arrived(daemon: Starter, tmp_path: Path) -> None:
    path = tmp_path / "saved"
    program = daemon("-machine", "virt", "-display", "none", "-S", "-serial", "null")
    assert human(program, "info migrate") == ""
    said = human(program, f"migrate file:{path}")
    assert said == "terminal does not allow synchronous migration, continuing detached\n"
    while program.qmp.command("query-migrate")["status"] not in {"completed", "failed"}:
        pass
    lines = human(program, "info migrate").splitlines()
    assert lines[0] == "Migration status: completed"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "total time",
        "downtime",
        "setup",
        "transferred ram",
        "throughput",
        "remaining ram",
        "total ram",
        "duplicate",
        "normal",
        "normal bytes",
        "dirty sync count",
        "page size",
        "multifd bytes",
        "pages-per-second",
        "precopy ram",
        "downtime ram",
    ]
    other = daemon("-machine", "virt", "-display", "none", "-incoming", "defer", "-serial", "null")
    assert human(other, "migrate_incoming tcp:127.0.0.1:0") == ""
    lines = human(other, "info migrate").splitlines()
    assert lines[:2] == ["Migration status: setup", "total time: 0 ms"]
    assert lines[2] == "socket address: ["
    assert lines[3].startswith("\ttcp:127.0.0.1:")
    assert lines[4:] == ["]"]


@pytest.mark.parametrize(
    ("uri", "value"),
    [
        ("tcp:h:1", {"type": "inet", "host": "h", "port": "1"}),
        ("tcp::1", {"type": "inet", "host": "", "port": "1"}),
        ("tcp:[::]:1,ipv6", {"type": "inet", "host": "::", "port": "1", "ipv6": True}),
        ("tcp:h:1,to=9,ipv4=off", {"type": "inet", "host": "h", "port": "1", "to": 9, "ipv4": False}),
        ("unix:a:b", {"type": "unix", "path": "a:b"}),
        ("fd:a", {"type": "fd", "str": "a"}),
        ("exec:a b", {"args": ["/bin/sh", "-c", "a b"]}),
        ("file:a:b", {"filename": "a:b", "offset": 0}),
        ("file:a,offset=0x10", {"filename": "a", "offset": 16}),
    ],
)
def test_addresses(uri: str, value: dict[str, Any]) -> None:
    address = parse_uri(uri)
    assert value.items() <= to_wire(address).items()
    channel = MigrationChannel(channel_type=MigrationChannelType.MAIN, addr=address)
    assert choose(None, [channel], incoming=True) is address
    for incoming in (False, True):
        with pytest.raises(GenericError, match=r"only one entry|more than one main entry"):
            choose(None, [channel, channel], incoming=incoming)


def test_a_place_that_cannot_be_waited_at_may_be_given_again(daemon: Starter, tmp_path: Path) -> None:
    qmp = daemon(*NOTHING, "-incoming", "defer").qmp
    with pytest.raises(QmpError, match="No such file or directory"):
        qmp.command("migrate-incoming", uri=f"file:{tmp_path / 'nope'}")
    assert qmp.command("query-migrate") == {}
    qmp.command("migrate-incoming", uri=f"unix:{tmp_path / 'socket'}")
    with pytest.raises(QmpError, match=r"^The incoming migration has already been started$"):
        qmp.command("migrate-incoming", uri=f"unix:{tmp_path / 'socket'}")


@given(
    st.one_of(
        st.text(max_size=30),
        st.text(max_size=20).map("tcp:{}".format),
        st.text(max_size=20).map("file:{}".format),
    )
)
def test_any_address(text: str) -> None:
    """It is one, or it is refused."""
    with contextlib.suppress(GenericError):
        assert "transport" in to_wire(parse_uri(text))


@pytest.mark.parametrize(
    "uri",
    [
        "exec:a\0b",
        "unix:a\0b",
        "unix:" + "a" * 200,
        "file:a\0b",
        "file:/tmp,offset=9E",
        "tcp:a\0b:1",
        "tcp:a..b:1",
        "tcp:x:nope",
    ],
)
def test_places_that_there_cannot_be(daemon: Starter, uri: str) -> None:
    """Neither to go to nor to come from; and the process is as well as before."""
    program = daemon(*NOTHING)
    with contextlib.suppress(QmpError):
        program.qmp.command("migrate", uri=uri)
    while program.qmp.command("query-migrate")["status"] not in {"failed", "completed"}:
        pass
    assert program.qmp.command("query-migrate")["status"] == "failed"
    assert program.qmp.command("query-status")["status"] == "running"
    other = daemon(*NOTHING, "-incoming", "defer")
    with contextlib.suppress(QmpError):
        other.qmp.command("migrate-incoming", {"uri": uri, "exit-on-error": False})
    while other.qmp.command("query-migrate").get("status", "failed") != "failed":
        pass
    assert other.qmp.command("query-status")["status"] == "inmigrate"

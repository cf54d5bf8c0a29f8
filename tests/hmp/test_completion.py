"""What Tab offers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from qemud.monitor.hmp.completion import completions
from qemud.monitor.hmp.shell import Shell
from tests.hmp.support import Qmp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REPLIES = {
    "query-chardev": [
        {"label": "serial0", "filename": "null"},
        {"label": "log", "filename": "ringbuf"},
    ],
    "qom-list": [{"name": "type", "type": "string"}, {"name": "disk0", "type": "child<loader>"}],
    "trace-event-get-state": [{"name": "mmio_read", "state": "disabled"}],
    "x-query-snapshots": {"common": [{"name": "before"}], "partial": []},
    "query-chardev-backends": [{"name": "null"}, {"name": "pty"}],
}


def offered(text: str, replies: Mapping[str, Any] = REPLIES) -> tuple[str, list[str]]:
    typed, names = asyncio.run(completions(Shell(Qmp(replies).execute), text))
    return typed, sorted(names)


@pytest.mark.parametrize(
    ("text", "typed", "names"),
    [
        ("system_p", "system_p", ["system_powerdown"]),
        ("  qom", "qom", ["qom-get", "qom-list", "qom-set"]),
        ("q", "q", ["q", "qom-get", "qom-list", "qom-set", "quit"]),
        ("info st", "st", ["stats", "status"]),
        ("help inf", "inf", ["info"]),
        ("help info ver", "ver", ["version"]),
        ("? stop", "stop", ["stop"]),
        ("device_add lo", "lo", ["loader"]),
        ("device_del ", "", ["disk0"]),
        ("device_del disk0 ", "", []),
        ("object_add memory-backend-m", "memory-backend-m", ["memory-backend-memfd"]),
        ("object_del d", "d", ["disk0"]),
        ("chardev-remove s", "s", ["serial0"]),
        ("chardev-add p", "p", ["pty"]),
        ("ringbuf_read ", "", ["log"]),
        ("trace-event m", "m", ["mmio_read"]),
        ("trace-event mmio_read o", "o", []),
        ("info trace-events ", "", ["mmio_read"]),
        ("loadvm b", "b", ["before"]),
        ("delvm ", "", ["before"]),
        ("savevm ", "", []),
        ("stop ", "", []),
        ("nope ", "", []),
        ("print 1", "1", []),
        ('logfile "unfinished', "", []),
        ("x /4x 0", "0", []),
    ],
)
def test_names(text: str, typed: str, names: list[str]) -> None:
    assert offered(text) == (typed, names)


def test_nothing_is_offered_where_asking_fails() -> None:
    assert offered("device_del d", {}) == ("d", [])


def test_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "other").touch()
    assert offered(f"logfile {tmp_path}/f") == (
        f"{tmp_path}/f",
        [f"{tmp_path}/file", f"{tmp_path}/folder/"],
    )
    assert offered(f"logfile {tmp_path}/nowhere/") == (f"{tmp_path}/nowhere/", [])
    assert offered(f"memsave 0 1 {tmp_path}/fi")[1] == []  # a word, by the table's word for it


def test_a_folder_that_cannot_be_read_offers_nothing() -> None:
    assert offered("logfile /proc/1/nope/x") == ("/proc/1/nope/x", [])

"""What qemud says of its commands and events agrees with what QEMU says of those of the same name.

A client written for QEMU must be able to send what it sends there, and to read what it reads there.  So, in what is sent, nothing
mandatory may be added; in what comes back, nothing mandatory may be missing; and every member has the same JSON type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Starter

NONE = ("-machine", "none", "-nodefaults", "-S", "-display", "none", "-monitor", "none")

BY_DESIGN = {
    "device_add arguments.driver": "the drivers are listed, where QEMU takes any text",
    "trace-event-get-state result[].name": "the events are listed, where QEMU returns any text",
}
"""Where the types differ and the values on the wire do not."""

EMPTY = frozenset({"query-block", "query-jobs", "query-named-block-nodes"})
"""Queries about what does not exist yet: their lists are empty, and the elements not described in full."""


class Comparison:
    """Both introspections, and what is found to differ."""

    def __init__(self, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
        self.ours = {entity["name"]: entity for entity in ours}
        self.theirs = {entity["name"]: entity for entity in theirs}
        self._seen: set[tuple[str, str, bool]] = set()

    def differences(self) -> Iterator[str]:
        for name, entity in self.ours.items():
            other = self.theirs.get(name)
            if other is None or entity["meta-type"] not in {"command", "event"}:
                continue
            kind = entity["meta-type"]
            yield from self._types(
                f"{name} arguments", entity["arg-type"], other["arg-type"], sent=kind == "command"
            )
            if kind == "command":
                yield from self._types(f"{name} result", entity["ret-type"], other["ret-type"], sent=False)
                if entity.get("allow-oob") != other.get("allow-oob"):
                    yield f"{name}: out of band"

    def _types(self, path: str, ours: str, theirs: str, *, sent: bool) -> Iterator[str]:
        a, b = self.ours[ours], self.theirs[theirs]
        key = (ours, theirs, sent)
        if key in self._seen or path in BY_DESIGN:
            return
        self._seen.add(key)
        if a["meta-type"] != b["meta-type"]:
            yield f"{path}: {a['meta-type']}, {b['meta-type']} in QEMU"
        elif a["meta-type"] == "builtin":
            if a["json-type"] != b["json-type"]:
                yield f"{path}: {a['json-type']}, {b['json-type']} in QEMU"
        elif a["meta-type"] == "array":
            yield from self._types(f"{path}[]", a["element-type"], b["element-type"], sent=sent)
        elif a["meta-type"] == "object":
            yield from self._objects(path, a, b, sent=sent)

    def _objects(self, path: str, a: dict[str, Any], b: dict[str, Any], *, sent: bool) -> Iterator[str]:
        ours = {member["name"]: member for member in a["members"]}
        theirs = {member["name"]: member for member in b["members"]}
        for name in ours.keys() & theirs.keys():
            yield from self._types(f"{path}.{name}", ours[name]["type"], theirs[name]["type"], sent=sent)
        # Who must give a member: the client in what is sent, qemud in what comes back.
        given, known = (ours, theirs) if sent else (theirs, ours)
        for name, member in given.items():
            if "default" not in member and ("default" in known[name] if name in known else True):
                yield f"{path}.{name}: {'mandatory here' if sent else 'not always there'}"
        branches = {branch["case"]: branch["type"] for branch in b.get("variants", ())}
        for branch in a.get("variants", ()):
            if branch["case"] in branches:
                theirs_type = branches[branch["case"]]
                yield from self._types(f"{path}+{branch['case']}", branch["type"], theirs_type, sent=sent)


@pytest.mark.differential
def test_commands_and_events_of_the_same_name_have_the_same_shape(
    daemon: Starter, reference: Starter
) -> None:
    schemas = [start(*NONE).qmp.command("query-qmp-schema") for start in (daemon, reference)]
    comparison = Comparison(*schemas)
    found = [text for text in comparison.differences() if text.split()[0] not in EMPTY]
    assert found == []
    common = {
        name
        for name, entity in comparison.ours.items()
        if entity["meta-type"] == "command" and name in comparison.theirs
    }
    assert common >= EMPTY
    assert len(common) > 70

"""The reference pages of qemud's own schema: everything is on them, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qemud.qapi.generate.build import ROOT_SCHEMA, build_docs
from qemud.qapi.model import AlternateType, EnumType, ObjectType
from qemud.qapi.schema import load
from qemud.qom.types import types

SCHEMA = load(ROOT_SCHEMA)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("docs")
    build_docs(SCHEMA, folder)
    return {path.name: path.read_text() for path in Path(folder).glob("*.md")}


def test_every_link_leads_somewhere(pages: dict[str, str]) -> None:
    anchors = {
        (name, anchor) for name, text in pages.items() for anchor in re.findall(r'<a id="([^"]+)">', text)
    }
    links = 0
    for name, text in pages.items():
        for page, anchor in re.findall(r"\]\(([\w.]*)(?:#([^)]+))?\)", text):
            links += 1
            assert (page or name) in pages, (name, page)
            if anchor:
                assert (page or name, anchor) in anchors, (name, page, anchor)
    assert links > 500


def test_everything_is_there(pages: dict[str, str]) -> None:
    everything = "\n".join(pages.values())
    for command in SCHEMA.commands():
        assert f"## Command `{command.name}`\n" in everything
        assert f"[`{command.name}`]" in pages["index.md"]
    for event in SCHEMA.events():
        assert f"## Event `{event.name}`\n" in everything
    for entity in SCHEMA.types():
        named = isinstance(entity, EnumType | ObjectType | AlternateType) and entity.module
        if named and not (isinstance(entity, ObjectType) and entity.implicit):
            assert re.search(rf"## \w+ `{re.escape(entity.name)}`\n", everything), entity.name
    for entry in types:
        assert f"## `{entry.name}`\n" in pages["devices.md"]
    line = SCHEMA.entities["CommandLine"]
    assert isinstance(line, ObjectType)
    for member in line.members:
        assert re.search(rf"## `-{member.name}[ `]", pages["command_line.md"])


def test_the_index_says_what_commands_do_and_pages_who_uses_a_type(pages: dict[str, str]) -> None:
    assert "\n- [`stop`](run_state.md#command-stop) — Stop the guest\n" in pages["index.md"]
    for command in [*SCHEMA.commands(), *SCHEMA.events()]:
        assert re.search(
            rf"^- \[`{re.escape(command.name)}`\]\(.*\) — \w.*\w.*$", pages["index.md"], re.MULTILINE
        )
    state = pages["run_state.md"].partition("## Enumeration `RunState`\n")[2].partition("\n## ")[0]
    assert "\nused by [`StatusInfo`](run_state.md#struct-StatusInfo)" in state
    assert (
        "Commands: [`yank`](yank.md#command-yank), [`query-yank`]" in pages["yank.md"].partition("\n## ")[0]
    )


def test_a_device_and_an_option(pages: dict[str, str]) -> None:
    loader = pages["devices.md"].partition("## `loader`\n")[2].partition("\n## ")[0]
    assert "a kind of [`device`](#type-device) · made by `-device` and `device_add`" in loader
    assert "- `data-len`: `uint8` (default: `0`) — how many bytes of `data` to store, 1 to 8" in loader
    name = pages["command_line.md"].partition("## `-name ")[2].partition("\n## ")[0]
    assert name.startswith("guest=…,process=…,debug-threads=…`\n\nNames of the guest.\n")
    assert "- `guest`: `str` (optional) — what clients are told" in name

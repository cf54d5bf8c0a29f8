"""Nodes and drives in a document of the machine: what is described and made again is described in the same words."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.block.create import create
from qemud.block.document import Description, open_configured
from qemud.block.drive import open_drive
from qemud.block.info import drive_info, node_info, told_of
from qemud.qapi.runtime.check import encode, parse_type
from qemud.qapi.runtime.errors import GenericError
from tests.block.support import Event, opened, with_graph

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 64 << 10
IMAGES = 12
"""How many images of each kind there are, so that nobody wants what another writes to."""

_GENERATED = re.compile(r'#?block\d+(-\d+)?|/[^"\\]*/vl\.\w+')
"""Names that the program makes up."""


def described(graph: Graph) -> dict[str, Any]:
    """The document of a graph, as a client gets it."""
    found = Description(graph)
    result: dict[str, Any] = json.loads(encode({"blockdevs": found.blockdevs, "drives": found.drives}))
    return result


async def build(graph: Graph, document: dict[str, Any]) -> None:
    for each in document["blockdevs"]:
        await graph.add(parse_type("BlockdevOptions", each))
    for each in document["drives"]:
        await open_configured(graph, parse_type("DriveConfiguration", each))


async def seen(graph: Graph) -> list[str]:
    """What clients see of nodes and drives, whatever names nobody gave."""
    told: list[Any] = [await drive_info(backend) for backend in told_of(graph)]
    told += [await node_info(node) for node in graph.nodes.values()]
    return sorted(_GENERATED.sub("NAME", encode(each).decode()) for each in told)


def again(document: dict[str, Any], shown: list[str] | None = None) -> None:
    """A graph from a document is described by it, and shown as the one that it was taken from."""

    async def test(graph: Graph, _events: list[Event]) -> None:
        await build(graph, document)
        assert described(graph) == document
        if shown is not None:
            assert await seen(graph) == shown

    with_graph(test)


# Graphs at random.

NAMES = st.from_regex(r"[a-z][a-z0-9._-]{0,8}", fullmatch=True)
COMMON = st.fixed_dictionaries(
    {},
    optional={
        "auto-read-only": st.booleans(),
        "discard": st.sampled_from(["ignore", "unmap"]),
        "detect-zeroes": st.sampled_from(["off", "on"]),
        "cache": st.fixed_dictionaries({}, optional={"no-flush": st.booleans()}),
    },
)


class _Maker:
    """Definitions of nodes that can be opened at the same time."""

    def __init__(self, draw: st.DrawFn, folder: Path) -> None:
        self._draw = draw
        self._folder = folder
        self._left = list(range(IMAGES))  # numbers of images that nobody has yet
        self._names = itertools.count()
        self.blockdevs: list[dict[str, Any]] = []
        self._lower: list[str] = []  # names of nodes that are at the bottom of others only

    def name(self) -> str:
        return f"{self._draw(NAMES)}-{next(self._names)}"

    def node(self, depth: int, *, read_only: bool) -> dict[str, Any]:
        draw = self._draw
        kinds = ["null-co"] + ["file"] * bool(self._left)
        if depth and self._left:
            kinds += ["raw", "qcow2", "blkdebug"] + ["copy-on-read"] * (not read_only)
        kind = draw(st.sampled_from(kinds))
        options: dict[str, Any] = {"driver": kind, **draw(COMMON)}
        if draw(st.integers(0, 3)) == 0:
            options["node-name"] = self.name()
        match kind:
            case "file":
                options["filename"] = str(self._folder / f"{self._left.pop()}.img")
            case "null-co":
                options["size"] = SIZE
            case "raw":
                options["file"] = self.child(depth, read_only=read_only)
                if draw(st.booleans()):
                    options |= {"offset": 512}
            case "qcow2":
                path = str(self._folder / f"{self._left.pop()}.qcow2")
                options["file"] = {"driver": "file", "filename": path}
                match draw(st.integers(0, 3)):
                    case 0:
                        options["backing"] = None
                    case 1:
                        options["backing"] = self.lower(depth)
            case "copy-on-read":
                options["file"] = self.child(depth, read_only=read_only)
            case "blkdebug":
                options["image"] = self.child(depth, read_only=read_only)
                options["inject-error"] = [{"event": "none", "iotype": "discard", "errno": 28}]
        return options

    def child(self, depth: int, *, read_only: bool) -> Any:
        """A node within the definition of another, or by itself."""
        made = self.node(depth - 1, read_only=read_only)
        if self._draw(st.integers(0, 2)):
            return made
        return self.own(made)

    def own(self, made: dict[str, Any]) -> str:
        made.setdefault("node-name", self.name())
        self.blockdevs.append(made)
        name: str = made["node-name"]
        return name

    def lower(self, depth: int) -> Any:
        """A backing file, which may be that of others as well."""
        shared: bool = self._draw(st.booleans())
        if shared and self._lower:
            return self._draw(st.sampled_from(self._lower))
        made = self.node(depth - 1, read_only=True)
        if self._draw(st.booleans()):
            self._lower.append(self.own(made))
            return made["node-name"]
        return made


@st.composite
def graphs(draw: st.DrawFn, folder: Path) -> dict[str, Any]:
    maker = _Maker(draw, folder)
    drives: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        read_only = draw(st.booleans())
        top = maker.node(draw(st.integers(0, 3)), read_only=read_only)
        if read_only:
            top["read-only"] = True
        if draw(st.booleans()):
            maker.own(top)
            continue
        drive = draw(
            st.fixed_dictionaries(
                {"id": st.just(f"drive{number}")},
                optional={
                    "if": st.sampled_from(["none", "virtio"]),
                    "copy-on-read": st.just(value=True),
                    "write-cache": st.just(value=False),
                    "werror": st.sampled_from(["stop", "ignore", "report"]),
                    "rerror": st.sampled_from(["stop", "ignore"]),
                    "account-failed": st.just(value=False),
                    "intervals": st.lists(st.integers(1, 60), min_size=1, max_size=2),
                    "limits": st.fixed_dictionaries(
                        {"bps-total": st.integers(1, 1 << 40)}, optional={"iops-read": st.integers(1, 99)}
                    ),
                },
            )
        )
        if read_only:
            drive.pop("copy-on-read", None)
        drives.append({**drive, "medium": maker.own(top) if draw(st.booleans()) else top})
    if draw(st.booleans()):
        drives.append(
            {"id": "empty", **draw(st.fixed_dictionaries({}, optional={"read-only": st.just(value=True)}))}
        )
    return {"blockdevs": maker.blockdevs, "drives": drives}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of empty images: N.img, and N.qcow2, each with base.img behind it."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "base.img").write_bytes(bytes(SIZE))
    for number in range(IMAGES):
        (folder / f"{number}.img").write_bytes(bytes(SIZE))
        overlay(folder, f"{number}.qcow2", "base.img")
    return folder


def overlay(folder: Path, name: str, base: str) -> str:
    """An empty image with another behind it."""
    path = folder / name
    path.touch()

    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="new", driver="file", filename=str(path))
        options = {"driver": "qcow2", "file": "new", "size": SIZE}
        behind = {"backing-file": str(folder / base), "backing-fmt": "raw"}
        await create(graph, parse_type("BlockdevCreateOptions", {**options, **behind}))

    with_graph(test)
    return str(path)


@settings(max_examples=60)
@given(data=st.data())
def test_what_is_described_is_made_again(images: Path, data: st.DataObject):
    document = data.draw(graphs(images))
    first: dict[str, Any] = {}
    shown: list[str] = []

    async def test(graph: Graph, _events: list[Event]) -> None:
        await build(graph, document)
        first.update(described(graph))
        shown.extend(await seen(graph))

    with_graph(test)
    assert {each["node-name"] for each in document["blockdevs"]} <= {
        each["node-name"] for each in first["blockdevs"]
    }
    assert [each["id"] for each in first["drives"]] == [each["id"] for each in document["drives"]]
    again(first, shown)


# Drives of the command line.


@pytest.mark.parametrize(
    "given",
    [
        {"if": "none", "id": "hd0"},
        {"if": "none", "media": "cdrom"},
        {"if": "virtio", "file": "0.img", "format": "raw", "werror": "stop", "rerror": "ignore"},
        {"if": "virtio", "file": "0.qcow2", "cache": "unsafe", "discard": "unmap", "detect-zeroes": "unmap"},
        {
            "if": "none",
            "file": "0.qcow2",
            "cache": "writethrough",
            "detect-zeroes": "unmap",
            "node-name": "n",
        },
        {"if": "none", "file": "0.qcow2", "read-only": "on", "stats-account-failed": "off"},
        {"if": "pflash", "unit": "1", "file": "0.img", "format": "raw", "stats-intervals.0": "60"},
        {"if": "none", "id": "x", "file": "0.qcow2", "copy-on-read": "on", "detect-zeroes": "on"},
        {"if": "none", "id": "x", "file": "0.qcow2", "snapshot": "on", "bps": "1000", "bps_max": "2000"},
        {"if": "none", "id": "x", "file": "0.img", "format": "raw", "iops": "7", "group": "g"},
        {"if": "none", "id": "x", "file": "0.qcow2", "snapshot": "on", "copy-on-read": "on"},
        {"if": "none", "id": "x", "file": "0.qcow2", "active": "off"},
        {"if": "none", "id": "x", "file": "0.qcow2", "snapshot": "on", "copy-on-read": "on", "active": "off"},
        {"if": "none", "id": "x", "driver": "null-co", "size": "4096"},
        {"if": "none", "id": "x", "file": "1.img", "format": "raw", "offset": "512", "size": "1024"},
    ],
    ids=lambda given: ",".join(f"{key}={value}" for key, value in given.items()),
)
def test_drives_of_the_command_line(images: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]):
    monkeypatch.chdir(images)
    first: dict[str, Any] = {}
    shown: list[str] = []

    async def test(graph: Graph, _events: list[Event]) -> None:
        await open_drive(graph, given)
        first.update(described(graph))
        shown.extend(await seen(graph))

    with_graph(test)
    assert first["blockdevs"] == []
    again(first, shown)


def test_a_drive_in_words(images: Path):
    async def test(graph: Graph, _events: list[Event]) -> None:
        await open_drive(graph, {"if": "virtio", "file": str(images / "0.qcow2"), "werror": "stop"})
        image = {"driver": "file", "filename": str(images / "0.qcow2")}
        base = {"driver": "file", "filename": str(images / "base.img")}
        with_defaults = {"locking": "auto", "aio": "threads"}
        assert described(graph)["drives"] == [
            {
                "id": "virtio0",
                "if": "virtio",
                "unit": 0,
                "medium": {
                    "driver": "qcow2",
                    "auto-read-only": True,
                    "file": {**image, **with_defaults},
                    "backing": {"driver": "raw", "file": {**base, **with_defaults}},
                },
                "werror": "stop",
                "rerror": "report",
            }
        ]

    with_graph(test)


@pytest.mark.parametrize("how", ["active", "given up", "incoming"])
def test_who_has_the_images(images: Path, how: str):
    first: dict[str, Any] = {}
    shown: list[str] = []

    async def test(graph: Graph, _events: list[Event]) -> None:
        graph.incoming = how == "incoming"
        name = str(images / "0.qcow2")
        await opened(graph, driver="qcow2", file={"driver": "file", "filename": name, "node-name": "f"})
        await open_drive(graph, {"if": "none", "id": "x", "file": str(images / "1.qcow2")})
        if how == "given up":
            await graph.inactivate_all()
        first.update(described(graph))
        shown.extend(await seen(graph))

    with_graph(test)
    assert all(('"active":true' in each) is (how == "active") for each in shown)
    (node,), (drive,) = first["blockdevs"], first["drives"]
    assert [node.get("active"), drive["medium"].get("active")] == [None if how == "active" else False] * 2
    assert "active" not in node["file"]
    again(first, shown)


def test_an_image_without_what_is_behind_it(images: Path):
    """TOML has no null: an empty name says the same."""

    async def test(graph: Graph, _events: list[Event]) -> None:
        file = {"driver": "file", "filename": str(images / "0.qcow2")}
        node = await opened(graph, driver="qcow2", file=file, backing="")
        assert node.backing is None
        assert described(graph)["blockdevs"][0]["backing"] is None

    with_graph(test)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id": "d d"}, "Parameter 'id' expects an identifier"),
        ({"id": "d0"}, "Device with id 'd0' already exists"),
        ({"id": "n0"}, "Device name 'n0' conflicts with an existing node name"),
        ({"werror": "auto"}, "'auto' invalid write error action"),
        ({"rerror": "enospc"}, "'enospc' invalid read error action"),
        ({"intervals": [0]}, "Invalid interval length: 0"),
        ({"limits": {"bps-total": -1}}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"medium": "nobody"}, "Cannot find device='nobody' nor node-name='nobody'"),
        (
            {"medium": {"driver": "file", "filename": "/nowhere"}},
            "Could not open '/nowhere': No such file or directory",
        ),
        ({"if": "virtio", "unit": 3}, "drive with bus=0, unit=3 (index=-1) exists"),
    ],
)
def test_drives_that_cannot_be(changes: dict[str, Any], told: str):
    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="n0", driver="null-co")
        await build(graph, {"blockdevs": [], "drives": [{"id": "d0", "if": "virtio", "unit": 3}]})
        before = await seen(graph)
        with pytest.raises(GenericError) as caught:
            await open_configured(graph, parse_type("DriveConfiguration", {"id": "new", **changes}))
        assert str(caught.value) == told
        assert await seen(graph) == before

    with_graph(test)


def test_long_chains_stand_by_themselves():
    """Definitions are not nested more deeply than people can read."""
    length = 60
    first: dict[str, Any] = {}

    async def test(graph: Graph, _events: list[Event]) -> None:
        below: dict[str, Any] = {"driver": "null-co"}
        for _ in range(length):
            below = {"driver": "raw", "file": below}
        await graph.add(parse_type("BlockdevOptions", {**below, "node-name": "top"}))
        first.update(described(graph))

    with_graph(test)
    assert len(first["blockdevs"]) == 3
    again(first)


def test_a_node_that_nobody_named_and_two_use():
    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="a", driver="raw", read_only=True, file={"driver": "null-co"})
        generated = graph.nodes["a"].file.node_name
        await opened(graph, node_name="b", driver="raw", read_only=True, file=generated)
        first = described(graph)
        names = [each["node-name"] for each in first["blockdevs"]]
        assert names == [generated.removeprefix("#"), "a", "b"]
        assert [each.get("file") for each in first["blockdevs"][1:]] == [names[0], names[0]]

    with_graph(test)

"""Data files of images as nodes: how they are found, made, told of, locked and reopened; what is refused."""

from __future__ import annotations

import json
import operator
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.backend import BlockBackend
from qemud.block.create import create
from qemud.block.image import open_image
from qemud.block.info import node_info
from qemud.block.internal import delete_snapshot, take_snapshot
from qemud.block.reopen import reopen, set_read_only
from qemud.qapi.runtime.check import parse_type, to_wire
from qemud.qapi.runtime.errors import GenericError
from tests.block.qcow2.test_data_file import image_with_data, mapped, qemu_io
from tests.block.qcow2.test_node import comparable, told_by_qemu
from tests.block.qcow2.tools import (
    check_image,
    content,
    make_image,
    open_qcow2,
    qemu_img,
    refusal,
)
from tests.block.support import opened, read, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 1 << 20


def with_name(path: Path, name: bytes | None) -> Path:
    """Let an image with small clusters name another data file, or none."""
    image = bytearray(path.read_bytes())
    place = image.index(b"DATA", 0, 4096)
    length = int.from_bytes(image[place + 4 : place + 8], "big")
    rest = bytes(image[place + 8 + -(-length // 8) * 8 : 4096])
    extension = b""
    if name is not None:
        extension = b"DATA" + len(name).to_bytes(4, "big") + name.ljust(-(-len(name) // 8) * 8, b"\0")
    image[:4096] = (bytes(image[:place]) + extension + rest)[:4096].ljust(4096, b"\0")
    path.write_bytes(image)
    return path


@pytest.mark.parametrize("raw", [False, True])
def test_new_images_are_those_that_qemu_makes(tmp_path: Path, raw: bool) -> None:
    theirs, _ = image_with_data(tmp_path, SIZE + 512, "theirs", data_file_raw="on" if raw else "off")
    ours, data = tmp_path / "ours.qcow2", tmp_path / "ours.data"

    async def test(graph: Graph, events: list[Any]) -> None:
        for path in ours, data:
            new = {"driver": "file", "filename": str(path), "size": 0}
            await create(graph, parse_type("BlockdevCreateOptions", new))
        await opened(graph, driver="file", node_name="f", filename=str(ours))
        await opened(graph, driver="file", node_name="d", filename=str(data))
        new = {"driver": "qcow2", "file": "f", "data-file": "d", "data-file-raw": raw, "size": SIZE + 512}
        await create(graph, parse_type("BlockdevCreateOptions", new))
        node = await graph.add(typed(driver="qcow2", node_name="n", file="f", data_file="d"))
        told = (await node.image_specific()).data
        assert (told.data_file, told.data_file_raw) == (str(data), raw)
        assert node.filename == str(ours)
        assert node.open_options()["data-file"] == {"driver": "file", "filename": str(data)}

    with_graph(test)
    check_image(ours)
    infos = [json.loads(qemu_img("info", "--output=json", path)) for path in (ours, theirs)]
    specific = [info["format-specific"]["data"] for info in infos]
    assert specific[0] == {**specific[1], "data-file": str(data)}
    assert infos[0]["virtual-size"] == infos[1]["virtual-size"]
    assert mapped(ours) == mapped(theirs)


@pytest.mark.parametrize("extended", [False, True])
def test_what_a_raw_data_file_holds_is_the_new_disk(tmp_path: Path, extended: bool) -> None:
    data = tmp_path / "old.raw"
    before = random.Random(1).randbytes(SIZE)
    data.write_bytes(before)
    path = tmp_path / "disk.qcow2"
    path.touch()

    async def test(graph: Graph, events: list[Any]) -> None:
        files = [{"driver": "file", "filename": str(each)} for each in (path, data)]
        new = {
            "driver": "qcow2",
            "file": files[0],
            "data-file": files[1],
            "data-file-raw": True,
            "extended-l2": extended,
            "size": SIZE,
        }
        await create(graph, parse_type("BlockdevCreateOptions", new))
        node = await open_qcow2(graph, path)
        assert await read(node, 0, SIZE) == before
        await write(node, 4096, b"new")
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert data.read_bytes() == before[:4096] + b"new" + before[4099:]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"data-file-raw": True}, "data-file-raw requires data-file"),
        (
            {"data-file": "d", "data-file-raw": True, "backing-file": "x"},
            "Backing file and data-file-raw cannot be used at the same time",
        ),
        (
            {"data-file": "d", "version": "v2"},
            "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
        ),
        ({"data-file": "none"}, "Cannot find device='none' nor node-name='none'"),
    ],
    ids=str,
)
def test_new_images_that_cannot_be(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    async def test(graph: Graph, events: list[Any]) -> None:
        for name in "fd":
            (tmp_path / name).touch()
            await opened(graph, driver="file", node_name=name, filename=str(tmp_path / name))
        new = parse_type("BlockdevCreateOptions", {"driver": "qcow2", "file": "f", "size": 0, **options})
        assert await refusal(create(graph, new)) == text

    with_graph(test)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (None, "'data-file' is required for this image"),
        ("", "The 'file' block driver requires a file name"),
        ("{}/none", "Could not open '{}/none': No such file or directory"),
        ("{}/fifo", "'file' driver requires '{}/fifo' to be a regular file"),
        ("{}", "Could not open '{}': Is a directory"),
        ("{}/disk.qcow2", 'Failed to get shared "resize" lock'),
        ('json:{"driver":"null-co"}', "Could not open 'json:{\"driver\":\"null-co\"}': No such file or directory"),
        ("nbd:unix:{}/s", "Could not open 'nbd:unix:{}/s': No such file or directory"),
        ("{}/" + "x" * 3000, "Could not open '{}/" + "x" * 3000 + "': File name too long"),
        ("{}/a\0b", "Could not open '{}/a': No such file or directory"),
    ],
    ids=str,
)  # fmt: skip
def test_hostile_names_are_refused(tmp_path: Path, name: str | None, text: str) -> None:
    path, _ = image_with_data(tmp_path, SIZE, cluster_size=4096)
    os.mkfifo(tmp_path / "fifo")
    with_name(path, None if name is None else name.replace("{}", str(tmp_path)).encode())

    async def test(graph: Graph, events: list[Any]) -> None:
        said = await refusal(open_qcow2(graph, path))
        assert said.splitlines()[0] == text.replace("{}", str(tmp_path))

    with_graph(test)


def test_tables_that_lead_elsewhere_make_the_image_corrupt(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, _ = image_with_data(tmp_path, SIZE, cluster_size=4096)

    async def fill(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await write(node, 0, b"x" * 8192)
        await graph.release(node)

    with_graph(fill)
    image = path.read_bytes()
    table = int.from_bytes(image[40:48], "big")
    l2 = int.from_bytes(image[table : table + 8], "big") & ~(1 << 63)
    cases = {
        (
            1 << 63 | 8192
        ): "External data file host cluster offset 0x2000 does not match guest cluster offset: "
        "0x1000, L2 index: 0x1)",
        (1 << 62 | 4096): "Compressed cluster entry found in image with external data file "
        f"(L2 offset: {l2:#x}, L2 index: 0x1)",
        (1 << 63): "External data file host cluster offset 0 does not match guest cluster offset: "
        "0x1000, L2 index: 0x1)",
        (1 << 63 | 512): f"Cluster allocation offset 0x200 unaligned (L2 offset: {l2:#x}, L2 index: 0x1)",
    }
    for entry, text in cases.items():
        wrong = bytearray(image)
        wrong[l2 + 8 : l2 + 16] = entry.to_bytes(8, "big")
        path.write_bytes(wrong)

        async def test(graph: Graph, events: list[Any], text: str = text) -> None:
            node = await open_qcow2(graph, path)
            assert await read(node, 0, 4096) == b"x" * 4096
            for _ in range(2):
                with pytest.raises(OSError, match=r"error|medium"):
                    await write(node, 4096, b"y")
            assert [data["msg"] for _, data in events] == [text]
            await graph.release(node)

        with_graph(test)
    capfd.readouterr()


def test_what_there_is_not_with_a_data_file(tmp_path: Path) -> None:
    path, _ = image_with_data(tmp_path, SIZE, data_file_raw="on")

    async def test(graph: Graph, events: list[Any]) -> None:
        definition = {"driver": "file", "filename": str(path), "node-name": "f"}
        node = await opened(graph, driver="qcow2", node_name="n", file=definition)
        with pytest.raises(OSError, match="not supported"):
            await node.write_compressed(0, [memoryview(bytes(65536))])
        assert await node.snapshots() is None
        listing = "Failed to get a snapshot list: Operation not supported"
        assert await refusal(take_snapshot(graph, "n", "s", 0)) == listing
        assert await refusal(delete_snapshot(graph, "n", None, "s")) == listing
        for work in node.take_snapshot("s", 0, 0), node.apply_snapshot("s"), node.delete_snapshot("1", "s"):
            with pytest.raises(OSError, match="not supported"):
                await work
        with pytest.raises(OSError, match="Invalid argument"):
            await node.change_backing_file("base", "raw")

    with_graph(test)
    check_image(path)


def test_it_is_locked_and_reopened_with_its_image(tmp_path: Path) -> None:
    path, data = image_with_data(tmp_path, SIZE)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await opened(
            graph, driver="qcow2", node_name="n", file={"driver": "file", "filename": str(path)}
        )
        child = node.children["data-file"]
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        backend.configure(read_only=False)
        await write(node, 0, b"written")
        said = qemu_img("resize", "-f", "raw", data, 2 * SIZE, status=1)
        assert 'Failed to get "write" lock' in said
        await backend.close()
        await set_read_only(graph, node, read_only=True)
        assert (child.read_only, child.flags.read_only) == (True, True)
        options = {"driver": "qcow2", "node_name": "n", "file": node.file.node_name}
        await reopen(graph, [typed(**options)])
        assert not child.read_only
        await write(node, 4096, b"again")
        other = await opened(graph, driver="null-co", node_name="other")
        wrong = typed(**options, data_file=other.node_name)
        assert await refusal(reopen(graph, [wrong])) == "Cannot change the option 'data-file'"
        await reopen(graph, [typed(**options, data_file=child.node_name)])
        assert await read(node, 4096, 5) == b"again"

    with_graph(test)
    check_image(path)
    assert content(path, SIZE)[:7] == b"written"


def test_another_process_may_have_it_meanwhile(tmp_path: Path) -> None:
    path, data = image_with_data(tmp_path, SIZE, cluster_size=4096)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await opened(
            graph, driver="qcow2", node_name="n", file={"driver": "file", "filename": str(path)}
        )
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        backend.configure(read_only=False)
        await write(node, 0, b"ours")
        await graph.inactivate_all()
        qemu_io(path, "read -P 111 0 1", "write -P 1 8k 4k")
        await graph.activate_all()
        assert await read(node, 8192, 4096) == b"\1" * 4096
        await write(node, 8192, b"again")
        await graph.inactivate_all()
        before = path.read_bytes()
        path.write_bytes(before[:79] + b"\0" + before[80:])  # no feature any more
        with pytest.raises(GenericError, match="'data-file' can only be set for images with"):
            await graph.activate_all()
        path.write_bytes(before)
        await graph.activate_all()
        await backend.close()

    with_graph(test)
    check_image(path)
    assert data.read_bytes()[8192:8200] == b"again\1\1\1"


@pytest.mark.differential
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ({}, {}),
        ({"data_file_raw": "on"}, {"read-only": True}),
        ({"extended_l2": "on"}, {"l2-cache-entry-size": 8192}),
        ({}, {"data-file": "nobody"}),
        ({}, {"data-file": ""}),
        ({"data_file": None, "extended_l2": "on"}, {}),
        ({"data_file": None}, {"data-file": {"driver": "null-co", "node-name": "d"}}),
        ({}, {"data-file": {"driver": "null-co", "node-name": "d", "size": SIZE}}),
        ({}, {"data-file": {"driver": "qcow2", "file": {"driver": "null-co"}}}),
    ],
    ids=str,
)
def test_nodes_are_told_of_as_by_qemu(tmp_path: Path, kind: dict[str, Any], options: dict[str, Any]) -> None:
    made = {name: value for name, value in kind.items() if value is not None}
    if "data_file" in kind:
        path = make_image(tmp_path / "disk.qcow2", SIZE, **made)
    else:
        path, _ = image_with_data(tmp_path, SIZE, **made)
    given = {
        "driver": "qcow2",
        "node-name": "q",
        "file": {"driver": "file", "filename": str(path), "node-name": "f"},
    }
    given |= options
    error, nodes = told_by_qemu(given)

    async def test(graph: Graph, events: list[Any]) -> None:
        try:
            await graph.add(parse_type("BlockdevOptions", given))
        except GenericError as failure:
            assert str(failure) == error  # noqa: PT017 - compared with QEMU's
        else:
            assert error is None
        found = [to_wire(await node_info(node)) for node in reversed(list(graph.nodes.values()))]
        for each in (*found, *nodes):
            if each["node-name"].startswith("#block"):
                each["node-name"] = ""
        key = operator.itemgetter("drv", "node-name")
        assert sorted(comparable(found), key=key) == sorted(comparable(nodes), key=key)

    with_graph(test)


def test_options_name_it_as_names_do(tmp_path: Path) -> None:
    path, data = image_with_data(tmp_path, SIZE, cluster_size=4096)
    plain = tmp_path / "plain.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", plain, SIZE)
    with_name(path, None)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_image(graph, str(path), {"data-file": {"filename": str(data)}})
        assert node.children["data-file"].filename == str(data)
        await write(node, 0, b"by its name")
        await set_read_only(graph, node, read_only=True)
        assert node.children["data-file"].read_only
        await graph.release(node)
        said = await refusal(open_image(graph, str(plain), {"data-file": {"filename": str(data)}}))
        assert said == "'data-file' can only be set for images with an external data file"

    with_graph(test)
    assert data.read_bytes()[:11] == b"by its name"

"""Disks in a document of the machine, after clients and jobs have changed them."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.block.backend import claim_drive, release_drive
from qemud.block.document import Description
from qemud.qapi.runtime.errors import GenericError
from tests.block.jobs.support import Client, run
from tests.block.support import opened, write
from tests.block.test_document import SIZE, again, described, overlay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


class Device:
    """As much of a device as a backend knows."""

    type_name, id, path = "virtio-blk-device", "d0", "/machine/peripheral/d0"


def changed(folder: Path, steps: Callable[[Client, Path], Awaitable[None]]) -> dict[str, Any]:
    """The document of a disk `top`, on a device, after some commands; it makes the same graph again."""
    first: dict[str, Any] = {}
    image_of_all = overlay(folder, "top.qcow2", "base.img")

    async def test(client: Client) -> None:
        graph = client.block
        await opened(graph, driver="qcow2", file={"driver": "file", "filename": image_of_all})
        device: Any = Device()
        backend = await claim_drive(graph, device, "drive", "top")
        try:
            backend.configure(read_only=False)
            await write(backend, 0, b"data")
            await steps(client, folder)
            first.update(described(graph))
            first["drive"] = Description(graph).name_for(device)
        finally:
            await release_drive(backend)

    run(test)
    drive = first.pop("drive")
    assert drive in {each["node-name"] for each in first["blockdevs"]}
    again(first)
    return {**first, "drive": drive}


async def change(client: Client, folder: Path, number: int, step: str) -> None:
    """One of the things that clients do to a disk."""
    graph = client.block
    root = graph.backends[0].node
    assert root is not None
    new = str(folder / f"{number}.img")
    match step:
        case "snapshot":
            await client(
                "blockdev-snapshot-sync",
                node_name=root.node_name,
                snapshot_file=new,
                snapshot_node_name=f"s{number}",
            )
        case "commit":
            await client("block-commit", job_id="j", device=root.node_name)
            await client.until("BLOCK_JOB_READY")
            await client("job-complete", id="j")
            await client.until("BLOCK_JOB_COMPLETED")
        case "stream":
            await client("block-stream", job_id="j", device=root.node_name)
            await client.until("BLOCK_JOB_COMPLETED")
        case "mirror" | "mirror of the top":
            sync = "full" if step == "mirror" else "top"
            await client(
                "drive-mirror", job_id="j", device=root.node_name, target=new, format="qcow2", sync=sync
            )
            await client.until("BLOCK_JOB_READY")
            await client("job-complete", id="j")
            await client.until("BLOCK_JOB_COMPLETED")
        case _:
            by_name = {each["node-name"]: each for each in described(graph)["blockdevs"]}
            if root.node_name in by_name:  # its description is what a client gives to have it changed
                options = {"detect-zeroes": "unmap", "discard": "unmap", "cache": {"no-flush": True}}
                await client("blockdev-reopen", options=[{**by_name[root.node_name], **options}])


STEPS = ("snapshot", "commit", "stream", "mirror", "mirror of the top", "reopen")


@settings(max_examples=30)
@given(wanted=st.lists(st.sampled_from(STEPS), max_size=5))
def test_whatever_clients_do(tmp_path_factory: pytest.TempPathFactory, wanted: list[str]):
    folder = tmp_path_factory.mktemp("disk")
    (folder / "base.img").write_bytes(bytes(SIZE))

    async def steps(client: Client, folder: Path) -> None:
        for number, step in enumerate(wanted):
            # A client may be refused: there is nothing to commit into, or a node is used by others.
            refused = () if step == "reopen" else (GenericError,)
            with contextlib.suppress(*refused):
                await change(client, folder, number, step)

    changed(folder, steps)


def chain(document: dict[str, Any], name: str | None = None) -> list[str]:
    """File names of a disk's images, the newest first."""
    by_name = {each["node-name"]: each for each in document["blockdevs"]}
    node: Any = document["drive"] if name is None else name
    found = []
    while node is not None:
        node = by_name[node] if isinstance(node, str) else node
        found.append(node["file"]["filename"].rpartition("/")[2])
        node = node.get("backing")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.img").write_bytes(bytes(SIZE))
    return tmp_path


def test_snapshots(folder: Path):
    async def steps(client: Client, folder: Path) -> None:
        for number in range(3):
            await client(
                "blockdev-snapshot-sync",
                node_name="top" if not number else f"s{number - 1}",
                snapshot_node_name=f"s{number}",
                snapshot_file=str(folder / f"s{number}.qcow2"),
            )

    document = changed(folder, steps)
    assert document["drive"] == "s2"
    assert chain(document) == ["s2.qcow2", "s1.qcow2", "s0.qcow2", "top.qcow2", "base.img"]
    # The one that a client made stands by itself, before what is above it.
    assert [each["node-name"] for each in document["blockdevs"]] == ["top", "s2"]


def test_a_snapshot_is_committed(folder: Path):
    async def steps(client: Client, folder: Path) -> None:
        await client(
            "blockdev-snapshot-sync",
            node_name="top",
            snapshot_node_name="s0",
            snapshot_file=str(folder / "s0.qcow2"),
        )
        await client("block-commit", job_id="j", device="s0", top_node="top")
        await client.until("BLOCK_JOB_COMPLETED")

    document = changed(folder, steps)
    # `top` is a client's, and there as long as the client wants.
    assert chain(document) == ["s0.qcow2", "base.img"]
    assert chain(document, "top") == ["top.qcow2", "base.img"]


def test_a_chain_is_streamed(folder: Path):
    async def steps(client: Client, _folder: Path) -> None:
        await client("block-stream", job_id="j", device="top")
        await client.until("BLOCK_JOB_COMPLETED")

    document = changed(folder, steps)
    assert chain(document) == ["top.qcow2"]


def test_a_mirror_is_taken(folder: Path):
    async def steps(client: Client, folder: Path) -> None:
        await client(
            "drive-mirror",
            job_id="j",
            device="top",
            target=str(folder / "copy.raw"),
            format="raw",
            sync="full",
        )
        await client.until("BLOCK_JOB_READY")
        during = described(client.block)
        assert [each["node-name"] for each in during["blockdevs"]] == ["top"]  # the job is not in it
        await client("job-complete", id="j")
        await client.until("BLOCK_JOB_COMPLETED")

    document = changed(folder, steps)
    assert re.fullmatch(r"block\d+", document["drive"])  # it had no name that a client can give
    assert chain(document) == ["copy.raw"]


def test_nodes_are_opened_anew(folder: Path):
    async def steps(client: Client, folder: Path) -> None:
        (folder / "other.img").write_bytes(bytes(SIZE))
        await client(
            "blockdev-add",
            driver="raw",
            node_name="other",
            read_only=True,
            file={"driver": "file", "filename": str(folder / "other.img")},
        )
        name = str(folder / "top.qcow2")
        await client(
            "blockdev-reopen",
            options=[
                {
                    "driver": "qcow2",
                    "node-name": "top",
                    "discard": "unmap",
                    "detect-zeroes": "unmap",
                    "l2-cache-size": 65536,
                    "file": {"driver": "file", "filename": name},
                    "backing": "other",
                }
            ],
        )

    document = changed(folder, steps)
    # What was made later comes first: the other is above it now.
    assert [each["node-name"] for each in document["blockdevs"]] == ["other", "top"]
    top = document["blockdevs"][1]
    assert (top["backing"], top["discard"], top["detect-zeroes"]) == ("other", "unmap", "unmap")
    assert top["l2-cache-size"] == 65536

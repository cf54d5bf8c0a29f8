"""The filter `blkdebug`: the requests that are to fail do, and no others."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Any

import pytest

from qemud.qapi.runtime.errors import GenericError
from tests.block.support import image, opened, read, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

REQUESTS = ("read", "write", "write-zeroes", "discard", "flush", "block-status")


async def attempt(node: Any, kind: str, offset: int = 0) -> int:
    """Make a request of 4 KiB; its error, or 0."""
    try:
        match kind:
            case "read":
                await read(node, offset, 4096)
            case "write":
                await write(node, offset, b"\1" * 4096)
            case "write-zeroes":
                await node.write_zeroes(offset, 4096)
            case "discard":
                await node.discard(offset, 4096)
            case "flush":
                with contextlib.suppress(OSError):
                    await write(node, 65536 - 512, b"\2" * 512)  # there must be something to flush
                await node.flush()
            case "block-status":
                await node.block_status(offset, 4096)
    except OSError as error:
        return error.errno or -1
    return 0


async def disk(graph: Graph, folder: Path, *rules: dict[str, Any], **options: Any) -> Any:
    file = {"driver": "file", "filename": image(folder, bytes(65536)), "discard": "unmap"}
    given = [{"event": "none", **rule} for rule in rules]
    return await opened(graph, driver="blkdebug", image=file, inject_error=given, discard="unmap", **options)


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_kind_of_requests_fails_and_no_other(tmp_path: Path, kind: str) -> None:
    async def test(graph: Graph, _events: list[Any]) -> None:
        node = await disk(graph, tmp_path, {"iotype": kind, "errno": errno.ENOSPC})
        for other in REQUESTS:
            assert await attempt(node, other) == (errno.ENOSPC if other == kind else 0), other

    with_graph(test)


def test_without_a_kind_all_but_questions_fail(tmp_path: Path) -> None:
    async def test(graph: Graph, _events: list[Any]) -> None:
        node = await disk(graph, tmp_path, {"sector": 8})
        for kind in ("read", "write", "write-zeroes", "discard"):
            assert await attempt(node, kind, 4096) == errno.EIO
            assert await attempt(node, kind, 0) == 0
            assert await attempt(node, kind, 8192) == 0
        assert await attempt(node, "block-status", 4096) == 0

    with_graph(test)


def test_once_is_once_and_the_first_rule_counts(tmp_path: Path) -> None:
    async def test(graph: Graph, _events: list[Any]) -> None:
        first = {"iotype": "read", "once": True, "errno": errno.EPERM, "immediately": True}
        node = await disk(graph, tmp_path, first, {"iotype": "read", "once": True, "delay-ns": 1})
        assert [await attempt(node, "read") for _ in range(3)] == [errno.EPERM, errno.EIO, 0]

    with_graph(test)


def test_limits_are_kept(tmp_path: Path) -> None:
    """A sector of 4 KiB: what is written to a part of it is read, changed and written; large requests come in pieces."""

    async def test(graph: Graph, _events: list[Any]) -> None:
        node = await disk(graph, tmp_path, align=4096, max_transfer=8192)
        await write(node, 100, b"\3" * 40000)
        assert await read(node, 0, 65536) == bytes(100) + b"\3" * 40000 + bytes(65536 - 40100)

    with_graph(test)


@pytest.mark.parametrize(
    ("name", "value"), [("align", 3), ("align", -1), ("align", 1 << 40), ("max_transfer", 100)]
)
def test_limits_that_cannot_be(tmp_path: Path, name: str, value: int) -> None:
    async def test(graph: Graph, _events: list[Any]) -> None:
        limits = {"align": 512, name: value}
        with pytest.raises(GenericError, match=f"Cannot meet constraints with {name.replace('_', '-')} "):
            await disk(graph, tmp_path, **limits)
        assert not graph.nodes

    with_graph(test)


def test_rules_change_while_it_is_open(tmp_path: Path) -> None:
    from qemud.block.reopen import reopen
    from tests.block.support import typed

    async def test(graph: Graph, _events: list[Any]) -> None:
        node = await disk(graph, tmp_path)
        assert await attempt(node, "read") == 0
        below = node.children["image"].node_name
        rules = [{"event": "none", "iotype": "read"}]
        changed = typed(driver="blkdebug", node_name="top", image=below, inject_error=rules)
        await reopen(graph, [changed])
        assert await attempt(node, "read") == errno.EIO

    with_graph(test)

"""New images: what their options make, as QEMU's tools see it, and what cannot be."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.create import create
from qemud.qapi.runtime.check import parse_type
from tests.block.qcow2.tools import check_image, content, make_image, qemu_img, refusal
from tests.block.support import opened, with_graph

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph


@pytest.mark.parametrize("seed", range(24))
def test_new_images(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "disk.qcow2"
    options: dict[str, Any] = {
        "size": rng.choice((0, 512, 1 << 20, (3 << 20) + 512)),
        "version": rng.choice(("v2", "v3", "v3")),
        "cluster-size": 1 << rng.randrange(9, 22),
        "preallocation": rng.choice(("off", "metadata", "falloc", "full")),
    }
    if options["version"] == "v3":
        options["refcount-bits"] = 1 << rng.randrange(7)
        options["lazy-refcounts"] = rng.random() < 0.5
        options["compression-type"] = rng.choice(("zlib", "zstd"))
        options["extended-l2"] = options["cluster-size"] >= 1 << 14 and rng.random() < 0.7
    alone = options["preallocation"] != "off" and not options.get("extended-l2")
    if not alone and rng.random() < 0.5:
        options["backing-file"] = "base.qcow2"
        options["backing-fmt"] = "qcow2"
        make_image(tmp_path / "base.qcow2", 1 << 20)

    async def test(graph: Graph, events: list[Any]) -> None:
        new = {"driver": "file", "filename": str(path), "size": 0}
        await create(graph, parse_type("BlockdevCreateOptions", new))
        await opened(graph, driver="file", node_name="f", filename=str(path))
        await create(graph, parse_type("BlockdevCreateOptions", {"driver": "qcow2", "file": "f", **options}))

    with_graph(test)
    check_image(path)
    told = json.loads(qemu_img("info", "--output=json", path))
    specific = told["format-specific"]["data"]
    assert told["virtual-size"] == options["size"]
    assert told["cluster-size"] == options["cluster-size"]
    assert specific["compat"] == {"v2": "0.10", "v3": "1.1"}[options["version"]]
    assert specific["refcount-bits"] == options.get("refcount-bits", 16)
    assert specific["compression-type"] == options.get("compression-type", "zlib")
    assert specific.get("extended-l2", False) == options.get("extended-l2", False)
    assert specific.get("lazy-refcounts", False) == options.get("lazy-refcounts", False)
    assert told.get("backing-filename") == options.get("backing-file")
    assert told.get("backing-filename-format") == options.get("backing-fmt")
    assert content(path, options["size"]) == bytes(options["size"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 513}, "Image size must be a multiple of 512 bytes"),
        (
            {"cluster-size": 8192, "extended-l2": True},
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
        ),
        (
            {"version": "v2", "extended-l2": True},
            "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
        ),
        ({"cluster-size": 100}, "Cluster size must be a power of two between 512 and 2048k"),
        (
            {"backing-file": "x", "preallocation": "full"},
            "Backing file and preallocation can only be used at the same time if extended_l2 is on",
        ),
        ({"backing-fmt": "raw"}, "Backing format cannot be used without backing file"),
        ({"refcount-bits": 3}, "Refcount width must be a power of two and may not exceed 64 bits"),
        (
            {"version": "v2", "lazy-refcounts": True},
            "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)",
        ),
        (
            {"size": 1 << 60},
            "Could not resize image: Failed to grow the L1 table: File too large",
        ),
    ],
    ids=str,
)
def test_new_images_that_cannot_be(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    path = tmp_path / "disk.qcow2"
    path.touch()

    async def test(graph: Graph, events: list[Any]) -> None:
        await opened(graph, driver="file", node_name="f", filename=str(path))
        new = {"driver": "qcow2", "file": "f", "size": 0, **options}
        assert await refusal(create(graph, parse_type("BlockdevCreateOptions", new))) == text

    with_graph(test)

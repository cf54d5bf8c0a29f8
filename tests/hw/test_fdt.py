"""Device trees: a round trip for every tree, an error and nothing else for every other blob."""

from __future__ import annotations

import contextlib
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.hw.boot.fdt import FdtError, Node, cells, cells64, flatten, string, strings, unflatten

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789,._+-@", min_size=1, max_size=12)


@st.composite
def nodes(draw: st.DrawFn, depth: int = 3) -> Node:
    node = Node(draw(names) if depth < 3 else "")
    for name, value in draw(st.dictionaries(names, st.binary(max_size=20), max_size=4)).items():
        node[name] = value
    if depth:
        for child in draw(st.lists(nodes(depth - 1), max_size=3, unique_by=lambda node: node.name)):
            node.children.append(child)
    return node


def plain(node: Node) -> object:
    return node.name, node.properties, node.reservations, [plain(child) for child in node.children]


ADDRESSES = st.integers(1, (1 << 64) - 1)


@given(nodes(), st.lists(st.tuples(ADDRESSES, ADDRESSES), max_size=3))
@settings(max_examples=60)
def test_every_tree_comes_back_from_its_blob(root: Node, reservations: list[tuple[int, int]]):
    root.reservations = reservations
    blob = flatten(root)
    assert plain(unflatten(blob)) == plain(root)
    assert plain(unflatten(blob + b"behind")) == plain(root)
    assert struct.unpack_from(">I", blob, 4)[0] == len(blob)


@given(nodes(), st.data())
@settings(max_examples=120)
def test_damaged_blobs_are_refused_or_read_as_something_else(root: Node, data: st.DataObject):
    blob = bytearray(flatten(root))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(blob)))
    for damaged in (bytes(blob), bytes(blob[:end])):
        with contextlib.suppress(FdtError):
            assert isinstance(unflatten(damaged), Node)


def test_a_tree_deeper_than_any_is_refused():
    root = node = Node("")
    for _ in range(64):
        node = node.child("x")
    with pytest.raises(FdtError, match="deeper than 64 nodes"):
        unflatten(flatten(root))


def test_nodes_are_found_and_made_by_name():
    root = Node("")
    uart = root.child("soc").child("serial@10000000")
    assert root.child("soc").child("serial@10000000") is uart
    assert root.find("/soc/serial@10000000") is uart
    assert root.find("soc/nothing") is None
    assert root.find("/") is root
    uart["status"] = string("okay")
    assert "status" in uart
    assert "reg" not in uart
    assert [path for path, _ in root.walk()] == ["/", "/soc", "/soc/serial@10000000"]


@pytest.mark.needs("dtc")
def test_dtc_reads_what_is_written():
    root = Node("")
    root["compatible"] = strings("a,b", "c")
    root["#address-cells"] = cells(2)
    root["#size-cells"] = cells(2)
    memory = root.child("memory@80000000")
    memory["device_type"] = string("memory")
    memory["reg"] = cells64(0x8000_0000, 1 << 33)
    done = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts"], input=flatten(root), capture_output=True, check=True
    )
    assert done.stderr == b""
    text = done.stdout.decode()
    assert 'compatible = "a,b\\0c"' in text
    assert "reg = <0x00 0x80000000 0x02 0x00>;" in text


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"", "shorter than its header"),
        (b"\x7fELF" + bytes(60), "begins with 0x7f454c46, expected 0xd00dfeed"),
        (struct.pack(">10I", 0xD00DFEED, 40, 40, 40, 40, 3, 3, 0, 0, 0), "has version 3, expected 17"),
        (struct.pack(">10I", 0xD00DFEED, 400, 40, 40, 40, 17, 16, 0, 0, 0), "says it has 400 bytes"),
        (struct.pack(">10I", 0xD00DFEED, 40, 40, 41, 40, 17, 16, 0, 0, 0), "a block outside itself"),
        (struct.pack(">10I", 0xD00DFEED, 56, 56, 56, 40, 17, 16, 0, 0, 0) + bytes(16), "middle of a node"),
        (
            struct.pack(">10I", 0xD00DFEED, 60, 56, 60, 40, 17, 16, 0, 0, 4) + bytes(19) + b"\x09",
            "no root node",
        ),
        (struct.pack(">10I", 0xD00DFEED, 48, 48, 48, 40, 17, 16, 0, 0, 0) + bytes(8), "without an end"),
    ],
)
def test_what_is_no_device_tree_is_refused_with_a_sentence(blob: bytes, text: str):
    with pytest.raises(FdtError, match=text):
        unflatten(blob)

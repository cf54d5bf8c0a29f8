"""Flattened device trees: a tree of nodes and properties, its blob, and back.

A property's value is bytes, as in the blob; `cells`, `cells64`, `string` and `strings` make the usual ones:

    root = Node("")
    soc = root.child("soc")
    uart = soc.child("serial@10000000")
    uart["compatible"] = string("ns16550a")
    uart["reg"] = cells(0, 0x1000_0000, 0, 0x100)
    blob = flatten(root)

Memory that is reserved by the blob's own table, and not by nodes, is in the root's `reservations`.  `unflatten` reads any blob, a user's `-dtb FILE` among them, and checks every offset on the way.

Source: Devicetree Specification, release v0.4, chapter 5 (version 17 of the format).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FDT_MAGIC = 0xD00DFEED
FDT_VERSION = 17
FDT_LAST_COMPATIBLE_VERSION = 16

_BEGIN_NODE = 1
_END_NODE = 2
_PROP = 3
_NOP = 4
_END = 9

_HEADER = struct.Struct(">10I")
_CELL = struct.Struct(">I")
_PROPERTY = struct.Struct(">II")
_RESERVATION = struct.Struct(">QQ")

_MAX_DEPTH = 64
"""Deeper trees are refused when read; Linux itself stops at this depth."""


class FdtError(ValueError):
    """The blob is no device tree, or a broken one; the text says where."""


class Node:
    """A node: its name with the unit address, its properties in order, its children in order."""

    __slots__ = ("children", "name", "properties", "reservations")

    def __init__(self, name: str) -> None:
        self.name = name
        self.properties: dict[str, bytes] = {}
        self.children: list[Node] = []
        self.reservations: list[tuple[int, int]] = []
        """Of a root: (address, size) of memory that is not to be touched."""

    def __getitem__(self, name: str) -> bytes:
        return self.properties[name]

    def __setitem__(self, name: str, value: bytes) -> None:
        self.properties[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self.properties

    def child(self, name: str) -> Node:
        """The child of that name, made when there is none."""
        for node in self.children:
            if node.name == name:
                return node
        node = Node(name)
        self.children.append(node)
        return node

    def find(self, path: str) -> Node | None:
        """The node at `path` below this one ("soc/serial@10000000"), or None."""
        node: Node | None = self
        for part in path.strip("/").split("/"):
            if part and node is not None:
                node = next((child for child in node.children if child.name == part), None)
        return node

    def walk(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """Every node with its absolute path, parents first; the root's path is "/"."""
        yield path or "/", self
        for child in self.children:
            yield from child.walk(f"{path}/{child.name}")


def cells(*values: int) -> bytes:
    """32-bit numbers; each must fit."""
    return struct.pack(f">{len(values)}I", *values)


def cells64(*values: int) -> bytes:
    """64-bit numbers, two cells each."""
    return struct.pack(f">{len(values)}Q", *values)


def string(value: str) -> bytes:
    """A string with its terminating zero."""
    return value.encode() + b"\0"


def strings(*values: str) -> bytes:
    """A list of strings, each with its terminating zero."""
    return b"".join(string(value) for value in values)


def flatten(root: Node, *, boot_cpu: int = 0) -> bytes:
    """The blob of a tree, packed: header, memory reservations, structure, strings."""
    structure = bytearray()
    names = bytearray()
    offsets: dict[str, int] = {}

    def pad() -> None:
        structure.extend(bytes(-len(structure) % 4))

    def emit(node: Node) -> None:
        structure.extend(_CELL.pack(_BEGIN_NODE) + node.name.encode() + b"\0")
        pad()
        for name, value in node.properties.items():
            offset = offsets.get(name)
            if offset is None:
                offset = offsets[name] = len(names)
                names.extend(name.encode() + b"\0")
            structure.extend(_CELL.pack(_PROP) + _PROPERTY.pack(len(value), offset) + value)
            pad()
        for child in node.children:
            emit(child)
        structure.extend(_CELL.pack(_END_NODE))

    emit(root)
    structure.extend(_CELL.pack(_END))
    reservations = b"".join(_RESERVATION.pack(*entry) for entry in (*root.reservations, (0, 0)))
    at_reservations = _HEADER.size
    at_structure = at_reservations + len(reservations)
    at_strings = at_structure + len(structure)
    header = _HEADER.pack(
        FDT_MAGIC,
        at_strings + len(names),
        at_structure,
        at_strings,
        at_reservations,
        FDT_VERSION,
        FDT_LAST_COMPATIBLE_VERSION,
        boot_cpu,
        len(names),
        len(structure),
    )
    return header + reservations + bytes(structure) + bytes(names)


def unflatten(blob: bytes) -> Node:
    """The tree of a blob. Raises FdtError; reads nothing outside the blob whatever it says."""
    return _Reader(blob).tree()


class _Reader:
    """One pass over a blob."""

    def __init__(self, blob: bytes) -> None:
        if len(blob) < _HEADER.size:
            raise FdtError("device tree is shorter than its header")
        (
            magic,
            size,
            at_structure,
            at_strings,
            at_reservations,
            version,
            compatible,
            _,
            strings_size,
            structure_size,
        ) = _HEADER.unpack_from(blob)
        if magic != FDT_MAGIC:
            raise FdtError(f"device tree begins with {magic:#010x}, expected {FDT_MAGIC:#010x}")
        if version < FDT_LAST_COMPATIBLE_VERSION or compatible > FDT_VERSION:
            raise FdtError(f"device tree has version {version}, expected {FDT_VERSION}")
        if size > len(blob):
            raise FdtError(f"device tree says it has {size} bytes, but there are {len(blob)}")
        if version < FDT_VERSION:  # version 16 does not know the size of its structure block
            structure_size = max(size - at_structure, 0)
        if at_structure + structure_size > size or at_strings + strings_size > size:
            raise FdtError("device tree has a block outside itself")
        self._structure = blob[at_structure : at_structure + structure_size]
        self._strings = blob[at_strings : at_strings + strings_size]
        self._position = 0
        self._reservations: list[tuple[int, int]] = []
        while True:
            if at_reservations + _RESERVATION.size > size:
                raise FdtError("device tree has memory reservations without an end")
            entry = _RESERVATION.unpack_from(blob, at_reservations)
            if entry == (0, 0):
                break
            self._reservations.append(entry)
            at_reservations += _RESERVATION.size

    def tree(self) -> Node:
        if self._token() != _BEGIN_NODE:
            raise FdtError("device tree has no root node")
        root = Node(self._name())
        root.reservations = self._reservations
        open_nodes = [root]
        while open_nodes:
            token = self._token()
            if token == _BEGIN_NODE:
                if len(open_nodes) >= _MAX_DEPTH:
                    raise FdtError(f"device tree is deeper than {_MAX_DEPTH} nodes")
                node = Node(self._name())
                open_nodes[-1].children.append(node)
                open_nodes.append(node)
            elif token == _END_NODE:
                open_nodes.pop()
            elif token == _PROP:
                name, value = self._property()
                open_nodes[-1][name] = value
            else:
                raise FdtError(f"device tree has the unknown token {token:#x}")
        if self._token() != _END:
            raise FdtError("device tree goes on after its root node")
        return root

    def _take(self, size: int) -> bytes:
        start = self._position
        if size > len(self._structure) - start:
            raise FdtError("device tree ends in the middle of a node")
        self._position = start + size
        return self._structure[start : self._position]

    def _align(self) -> None:
        self._position = min(self._position + -self._position % 4, len(self._structure))

    def _token(self) -> int:
        while True:
            token: int = _CELL.unpack(self._take(4))[0]
            if token != _NOP:
                return token

    def _name(self) -> str:
        end = self._structure.find(b"\0", self._position)
        if end < 0:
            raise FdtError("device tree ends in the middle of a node's name")
        name = self._take(end - self._position)
        self._position += 1
        self._align()
        return _text(name)

    def _property(self) -> tuple[str, bytes]:
        size, at_name = _PROPERTY.unpack(self._take(_PROPERTY.size))
        value = self._take(size)
        self._align()
        end = self._strings.find(b"\0", at_name)
        if at_name >= len(self._strings) or end < 0:
            raise FdtError("device tree has a property whose name lies outside the strings")
        return _text(self._strings[at_name:end]), value


def _text(name: bytes) -> str:
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise FdtError(f"device tree has the name {name!r}, which is not ASCII") from None

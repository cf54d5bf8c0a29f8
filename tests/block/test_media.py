"""Trays and media: what clients may do with a drive whose medium can be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.block import BlockdevChangeReadOnlyMode
from qemud.block.backend import BlockBackend, claim_drive, release_drive
from qemud.block.media import BlockHandlers
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError, QmpError
from tests.block.support import Event, image, opened, read, with_graph

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

NULL = {"driver": "null-co", "read-zeroes": True, "size": 65536}


class CdDrive:
    """A device with a tray, or without one."""

    type_name = "test-cd"

    def __init__(self, name: str, *, tray: bool) -> None:
        self.id = name
        self.path = f"/machine/peripheral/{name}"
        self.tray_open: bool | None = False if tray else None
        self.medium_locked = False
        self.heard: list[Any] = []

    async def eject_request(self, *, force: bool) -> None:
        self.heard.append(("asked", force))

    async def medium_changed(self, *, loaded: bool) -> None:
        self.heard.append("in" if loaded else "out")
        if self.tray_open is not None:
            self.tray_open = not loaded


class Services:
    def __init__(self, graph: Graph) -> None:
        self.block = graph


def rig(graph: Graph, *, tray: bool = True, name: str = "cd0") -> tuple[BlockBackend, CdDrive, BlockHandlers]:
    backend, device = BlockBackend(graph), CdDrive(name, tray=tray)
    backend.attach_device(device)
    backend.medium = device
    return backend, device, BlockHandlers(Services(graph))


def test_a_medium_is_changed_step_by_step():
    async def test(graph: Graph, events: list[Event]) -> None:
        backend, device, media = rig(graph)
        await opened(graph, node_name="disc", **NULL)
        backend.insert(await opened(graph, node_name="first", **NULL))
        with pytest.raises(GenericError, match="Tray of device 'cd0' is not open"):
            await media.blockdev_remove_medium(id="cd0")
        with pytest.raises(GenericError, match="Tray of the device is not open"):
            await media.blockdev_insert_medium(id="cd0", node_name="disc")
        await media.blockdev_open_tray(device=None, id="cd0", force=False)
        assert not backend.available
        with pytest.raises(OSError, match="No medium found"):
            await read(backend, 0, 1)
        with pytest.raises(GenericError, match="There already is a medium in the device"):
            await media.blockdev_insert_medium(id="cd0", node_name="disc")
        await media.blockdev_remove_medium(id="/machine/peripheral/cd0")
        await media.blockdev_remove_medium(id="cd0")  # there is nothing left to take
        with pytest.raises(GenericError, match="Node 'nope' not found"):
            await media.blockdev_insert_medium(id="cd0", node_name="nope")
        await media.blockdev_insert_medium(id="cd0", node_name="disc")
        await media.blockdev_close_tray(device=None, id="cd0")
        await media.blockdev_close_tray(device=None, id="cd0")
        assert await read(backend, 0, 2) == bytes(2)
        assert device.heard == ["out", "in"]
        assert events == [
            ("DEVICE_TRAY_MOVED", {"device": "", "id": "cd0", "tray-open": opened})
            for opened in (True, False)
        ]
        other, _, _ = rig(graph, name="cd1")
        await media.blockdev_open_tray(device=None, id="cd1", force=False)
        with pytest.raises(GenericError, match="Node 'disc' is already in use"):
            await media.blockdev_insert_medium(id="cd1", node_name="disc")
        assert other.node is None

    with_graph(test)


def test_a_guest_that_holds_its_medium_is_asked():
    async def test(graph: Graph, events: list[Event]) -> None:
        backend, device, media = rig(graph)
        backend.insert(await opened(graph, **NULL))
        device.medium_locked = True
        await media.blockdev_open_tray(device=None, id="cd0", force=False)
        text = "Device 'cd0' is locked and force was not specified, wait for tray to open and try again"
        with pytest.raises(GenericError, match=text):
            await media.eject(device=None, id="cd0", force=False)
        assert events == []
        await media.eject(device=None, id="cd0", force=True)
        assert backend.node is None
        assert device.heard == [("asked", False), ("asked", False), ("asked", True), "out"]

    with_graph(test)


def test_without_a_tray_the_medium_itself_moves():
    async def test(graph: Graph, events: list[Event]) -> None:
        backend, device, media = rig(graph, tray=False)
        await opened(graph, node_name="disc", **NULL)
        await media.blockdev_insert_medium(id="cd0", node_name="disc")
        await media.blockdev_close_tray(device=None, id="cd0")
        assert device.heard == ["in"]
        await media.eject(device=None, id="cd0", force=False)
        assert device.heard == ["in", "out"]
        assert backend.node is None
        assert events == []

    with_graph(test)


def test_another_image_is_put_in_at_once(tmp_path: Path):
    first = image(tmp_path, b"first" * 512, "first")
    second = image(tmp_path, b"second" * 512, "second")
    retain = BlockdevChangeReadOnlyMode.RETAIN

    async def test(graph: Graph, _events: list[Event]) -> None:
        backend, _, media = rig(graph)
        backend.name = "d"

        async def change(name: str, mode: BlockdevChangeReadOnlyMode = retain) -> None:
            await media.blockdev_change_medium(
                device=None, id="cd0", filename=name, format="raw", force=False, read_only_mode=mode
            )

        await change(first, BlockdevChangeReadOnlyMode.READ_ONLY)
        assert await read(backend, 0, 5) == b"first"
        assert backend.read_only
        await change(second)
        assert await read(backend, 0, 6) == b"second"
        assert backend.read_only
        with pytest.raises(GenericError, match="Could not open"):
            await change(str(tmp_path / "nope"))
        assert await read(backend, 0, 6) == b"second"
        await change(first, BlockdevChangeReadOnlyMode.READ_WRITE)
        assert not backend.read_only

    with_graph(test)


def test_drives_belong_to_one_device():
    async def test(graph: Graph, _events: list[Event]) -> None:
        drive, device, media = (
            BlockBackend(graph, "hd0"),
            CdDrive("a", tray=False),
            BlockHandlers(Services(graph)),
        )
        await opened(graph, node_name="disc", **NULL)
        with pytest.raises(GenericError, match=r"Property 'test-cd\.drive' can't find value 'nope'"):
            await claim_drive(graph, device, "drive", "nope")
        assert await claim_drive(graph, device, "drive", "hd0") is drive
        with pytest.raises(GenericError, match="Drive 'hd0' is already in use by another device"):
            await claim_drive(graph, CdDrive("b", tray=False), "drive", "hd0")
        with pytest.raises(GenericError, match="Device 'a' is not removable"):
            await media.eject(device=None, id="a", force=False)
        await release_drive(drive)
        assert drive.device is None
        own = await claim_drive(graph, device, "drive", "disc")
        assert own.node is graph.nodes["disc"]
        await release_drive(own)
        assert graph.backends == [drive]
        for arguments, error, text in (
            ({"device": "nope", "id": None}, DeviceNotFound, "Device 'nope' not found"),
            ({"device": None, "id": "nope"}, DeviceNotFound, "Device 'nope' not found"),
            ({"device": None, "id": None}, GenericError, "Need exactly one of 'device' and 'id'"),
            ({"device": "a", "id": "b"}, GenericError, "Need exactly one of 'device' and 'id'"),
        ):
            with pytest.raises(QmpError, match=text) as caught:
                await media.eject(**arguments, force=False)
            assert type(caught.value) is error

    with_graph(test)

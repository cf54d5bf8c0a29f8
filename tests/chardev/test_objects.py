"""Character devices below /chardevs: there while they are, with what can be read of them."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from qemud.chardev.objects import tree_hooks
from qemud.chardev.registry import Chardevs
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from qemud.qom.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path


def test_they_come_and_go(tmp_path: Path) -> None:
    tree = Tree()
    path = tmp_path / "socket"

    async def main() -> None:
        chardevs = Chardevs()
        await chardevs.open_options("null,id=n")
        chardevs.watch(*tree_hooks(tree))  # those that exist are shown at once
        await chardevs.open_options("ringbuf,id=r,size=64")
        await chardevs.open_options(f"file,id=f,path={tmp_path / 'file'}")
        await chardevs.open_options(f"socket,id=s,path={path},server=on,wait=off")
        assert {name: child.type_name for name, child in tree.chardevs.children.items()} == {
            "n": "chardev-null",
            "r": "chardev-ringbuf",
            "f": "chardev-file",
            "s": "chardev-socket",
        }
        shown = tree.get("/chardevs/s")
        assert shown.get_property("connected") is False
        assert shown.property_type("connected") == "bool"
        with pytest.raises(GenericError, match=r"Property 'chardev-socket\.connected' is not writable"):
            shown.set_property("connected", True)
        chardev = chardevs.get("s")
        assert chardev is not None
        port = chardev.attach()
        opened = asyncio.Event()
        port.start(receive=lambda data: None, event=lambda event: opened.set())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            await opened.wait()
            assert shown.get_property("connected") is True
        port.detach()
        await chardevs.remove("n")
        with pytest.raises(DeviceNotFound):
            tree.get("/chardevs/n")
        await chardevs.close_all()

    asyncio.run(main())


def test_a_name_that_the_container_has_is_not_shown() -> None:
    tree = Tree()

    async def main() -> None:
        chardevs = Chardevs()
        chardevs.watch(*tree_hooks(tree))
        await chardevs.open_options("null,id=type")
        assert tree.chardevs.children == {}
        await chardevs.remove("type")

    asyncio.run(main())

"""What libvirt says for snapshots, commit, copy, backup, checkpoints and pull, step by step, as it was recorded with QEMU.

`libvirt.json` has for each step the command, its arguments, the events that came before its answer, the answer (`...` where it is
compared elsewhere), and the events that came before the next command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.block.jobs.support import MIB, Client, Guest, qemu_img, run

TALKS: dict[str, list[list[Any]]] = json.loads((Path(__file__).parent / "libvirt.json").read_text())
FOLDER = "W/img"


async def disk(client: Client, number: int, path: Path, driver: str, size: int) -> Guest:
    """A disk as libvirt defines it, with a guest that has it."""
    qemu_img("create", "-q", "-f", driver, path, size)
    await client.add(
        f"libvirt-{number}-storage", "file", filename=str(path), auto_read_only=True, discard="unmap"
    )
    await client.add(f"libvirt-{number}-format", driver, read_only=False, file=f"libvirt-{number}-storage")
    guest = Guest(client, f"libvirt-{number}-format")
    guest.backend.name = f"drive{number}"
    return guest


async def talk(client: Client, name: str, folder: Path) -> None:
    """Say what libvirt says, and hear what it heard."""
    steps = json.loads(json.dumps(TALKS[name]).replace(FOLDER, str(folder)))
    for command, arguments, before, answer, after in steps:
        if command == "blockdev-add" and "filename" in arguments:
            Path(arguments["filename"]).touch()
        client.events.clear()
        heard = await client(command, **arguments)
        assert [list(event) for event in client.events][: len(before)] == before, command
        expected = [*before, *after]
        while len(client.events) < len(expected):
            await client.more()
        assert [list(event) for event in client.events] == expected, command
        if answer == "...":
            assert heard
        elif isinstance(answer, list):
            assert len(heard) == len(answer)
            for one, other in zip(heard, answer, strict=True):
                assert one | other == one
        else:
            assert heard == answer


def test_snapshots_commit_and_copy(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        guests = [
            await disk(client, 2, tmp_path / "d1.raw", "raw", 20 * MIB),
            await disk(client, 3, tmp_path / "d3.qcow2", "qcow2", 8 * MIB),
        ]
        await talk(client, "snap-ext", tmp_path)
        await talk(client, "blockcommit", tmp_path)
        await talk(client, "blockcopy", tmp_path)
        assert guests[0].backend.node is client.block.nodes["libvirt-6-format"]
        for guest in guests:
            await guest.write_once()
            assert await guest.read() == guest.disk
            await guest.unplug()

    run(test)


@pytest.mark.parametrize("name", ["backup", "checkpoint", "blockpull"])
def test_one_disk(tmp_path: Path, name: str) -> None:
    async def test(client: Client) -> None:
        guest = await disk(client, 1, tmp_path / "d2.qcow2", "qcow2", 32 * MIB)
        await talk(client, name, tmp_path)
        await guest.write_once()
        assert await guest.read() == guest.disk
        await guest.unplug()

    run(test)

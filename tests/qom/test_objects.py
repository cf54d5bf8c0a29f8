"""object-add, object-del, and the objects there are: memory and secrets."""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from qemud.machine import backends
from qemud.machine.backends import MemoryBackend, secret_of
from qemud.qapi.runtime.check import parse_arguments, parse_type
from qemud.qapi.runtime.errors import GenericError, QmpError
from qemud.qom.properties import Provenance
from qemud.qom.userobjects import add_object, options_from_text

if TYPE_CHECKING:
    from pathlib import Path

    from tests.qom.machines import Services


def add(services: Services, **arguments: Any) -> Any:
    """object-add, through the input check, as a client's request goes."""
    wire = {name.replace("_", "-"): value for name, value in arguments.items()}
    typed = parse_arguments("object-add", wire)
    return asyncio.run(add_object(services.tree, typed))


def refusal(services: Services, **arguments: Any) -> str:
    before = [node.path for node in services.tree.root.walk()]
    with pytest.raises(QmpError) as caught:
        add(services, **arguments)
    assert [node.path for node in services.tree.root.walk()] == before
    return str(caught.value)


def delete(services: Services, name: str) -> None:
    asyncio.run(services.qom.object_del(id=name))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"qom_type": "nope", "id": "a"}, "Parameter 'qom-type' does not accept value 'nope'"),
        ({"qom_type": "memory-backend-ram", "size": 1}, "Parameter 'id' is missing"),
        ({"qom_type": "memory-backend-ram", "id": "a"}, "Parameter 'size' is missing"),
        ({"qom_type": "memory-backend-ram", "id": "1a", "size": 1}, "Parameter 'id' expects an identifier"),
        ({"qom_type": "memory-backend-ram", "id": "", "size": 1}, "Parameter 'id' expects an identifier"),
        ({"qom_type": "memory-backend-ram", "id": "ä", "size": 1}, "Parameter 'id' expects an identifier"),
        ({"qom_type": "memory-backend-ram", "id": "m", "size": "1M"}, "Parameter 'size' expects uint64"),
        (
            {"qom_type": "memory-backend-ram", "id": "m", "size": 0},
            "property 'size' of memory-backend-ram doesn't take value '0'",
        ),
        (
            {"qom_type": "memory-backend-ram", "id": "m", "size": 1 << 62},
            "cannot set up guest memory 'm': Cannot allocate memory",
        ),
        (
            {"qom_type": "memory-backend-memfd", "id": "m", "size": (1 << 64) - 1},
            "cannot set up guest memory 'm': File too large",
        ),
        (
            {"qom_type": "memory-backend-ram", "id": "m", "size": 4096, "policy": "nope"},
            "Parameter 'policy' does not accept value 'nope'",
        ),
        (
            {"qom_type": "memory-backend-ram", "id": "m", "size": 4096, "policy": "bind"},
            "host-nodes must be set for policy bind",
        ),
        (
            {"qom_type": "memory-backend-ram", "id": "m", "size": 4096, "host_nodes": [0]},
            (
                "host-nodes must be empty for policy default, "
                "or you should explicitly specify a policy other than default"
            ),
        ),
        (
            {"qom_type": "memory-backend-ram", "id": "m", "size": 1, "host_nodes": [128], "policy": "bind"},
            "Invalid host-nodes value: 128",
        ),
        (
            {"qom_type": "memory-backend-file", "id": "m", "size": 4096, "mem_path": "/nonexistent/x"},
            "can't open backing store /nonexistent/x for guest RAM: No such file or directory",
        ),
        (
            {"qom_type": "memory-backend-file", "id": "m", "size": 4096, "mem_path": "/tmp", "offset": 1},
            "offset 0x1 must be multiples of page size 0x1000",
        ),
        (
            {"qom_type": "memory-backend-file", "id": "m", "size": 4096, "mem_path": "/\0"},
            "can't open backing store /\0 for guest RAM: embedded null byte",
        ),
        ({"qom_type": "memory-backend-ram", "id": "m", "size": 1, "foo": 1}, "Parameter 'foo' is unexpected"),
        ({"qom_type": "secret", "id": "s"}, "Either 'file' or 'data' must be provided"),
        (
            {"qom_type": "secret", "id": "s", "data": "", "file": "/x"},
            "'file' and 'data' are mutually exclusive",
        ),
        (
            {"qom_type": "secret", "id": "s", "file": "/nonexistent"},
            "Unable to read /nonexistent: Failed to open file “/nonexistent”: No such file or directory",
        ),
        (
            {"qom_type": "secret", "id": "s", "data": "!", "format": "base64"},
            "Base64 data contains invalid characters",
        ),
    ],
)
def test_refusals(services: Services, arguments: dict[str, Any], text: str) -> None:
    assert refusal(services, **arguments) == text


def test_an_object_comes_and_goes(services: Services) -> None:
    made = add(services, qom_type="memory-backend-ram", id="m", size=5000)
    assert made.path == "/objects/m"
    assert made.block.size == 8192
    assert made.get_property("size") == 5000
    assert made.provenance_of("size") is Provenance.USER
    assert made.provenance_of("share") is Provenance.DEFAULT
    assert refusal(services, qom_type="secret", id="m", data="x") == (
        "attempt to add duplicate property 'm' to object (type 'container')"
    )
    assert refusal(services, qom_type="secret", id="type", data="x") == (
        "attempt to add duplicate property 'type' to object (type 'container')"
    )
    delete(services, "m")
    assert made.block is None
    with pytest.raises(GenericError, match="object 'm' not found"):
        delete(services, "m")


def test_what_the_machine_uses_stays(services: Services) -> None:
    made = add(services, qom_type="memory-backend-memfd", id="m", size=4096)
    block = made.take()
    block.view[:2] = b"hi"
    with pytest.raises(GenericError, match=r"memory backend m can't be used multiple times\."):
        made.take()
    with pytest.raises(GenericError, match="object 'm' is in use, can not be deleted"):
        delete(services, "m")
    made.give_back()
    delete(services, "m")


def test_dynamic_properties_change_and_others_do_not(services: Services) -> None:
    made = add(services, qom_type="memory-backend-ram", id="m", size=4096)
    asyncio.run(services.qom.qom_set(path="m", property="dump", value=False))
    assert asyncio.run(services.qom.qom_get(path="/objects/m", property="dump")) is False
    assert "dd" in kernel_flags(made.block.address)
    asyncio.run(services.qom.qom_set(path="m", property="dump", value=True))
    assert "dd" not in kernel_flags(made.block.address)
    for name, value, text in [
        ("size", 8192, "cannot change property 'size' of memory-backend-ram"),
        ("nope", 1, "Property 'memory-backend-ram.nope' not found"),
        ("type", "x", "Property 'memory-backend-ram.type' is not writable"),
        ("dump", 1, "Invalid parameter type for 'dump', expected: boolean"),
        ("dump", None, "Invalid parameter type for 'dump', expected: boolean"),
    ]:
        with pytest.raises(GenericError) as caught:
            asyncio.run(services.qom.qom_set(path="m", property=name, value=value))
        assert str(caught.value) == text
    delete(services, "m")


def kernel_flags(address: int) -> str:
    """What the kernel notes of the mapping at `address`: `VmFlags` of /proc/self/smaps."""
    found = False
    with open("/proc/self/smaps") as file:
        for line in file:
            if "-" in line.split(" ")[0]:
                start, end = (int(part, 16) for part in line.split(" ")[0].split("-"))
                found = start <= address < end
            elif found and line.startswith("VmFlags:"):
                return line
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_a_file_backs_memory(services: Services, tmp_path: Path) -> None:
    path = tmp_path / "ram"
    made = add(services, qom_type="memory-backend-file", id="m", size=8192, mem_path=str(path), share=True)
    made.block.view[4096:4100] = b"here"
    delete(services, "m")
    assert path.stat().st_size == 8192
    assert path.read_bytes()[4096:4100] == b"here"

    made = add(services, qom_type="memory-backend-file", id="m", size=4096, mem_path=str(path), offset=4096)
    assert bytes(made.block.view[:4]) == b"here"
    made.block.view[:4] = b"gone"
    delete(services, "m")
    assert path.read_bytes()[4096:4100] == b"here"

    assert refusal(services, qom_type="memory-backend-file", id="m", size=16384, mem_path=str(path)) == (
        "m backing store size 0x2000 is too small for 'size' option 0x4000 plus 'offset' option 0x0"
    )
    empty = tmp_path / "empty"
    empty.touch()
    assert "is too small" in refusal(
        services, qom_type="memory-backend-file", id="m", size=4096, mem_path=str(empty), readonly=True
    )


def test_a_directory_backs_memory_and_keeps_nothing(services: Services, tmp_path: Path) -> None:
    made = add(
        services, qom_type="memory-backend-file", id="m", size=4096, mem_path=str(tmp_path), share=True
    )
    made.block.view[:1] = b"x"
    assert list(tmp_path.iterdir()) == []
    delete(services, "m")


def test_a_file_for_reading_only_is_not_written(services: Services, tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(b"a" * 4096)
    path.chmod(0o400)
    made = add(services, qom_type="memory-backend-file", id="m", size=4096, mem_path=str(path), readonly=True)
    made.block.view[:1] = b"b"
    delete(services, "m")
    assert path.read_bytes() == b"a" * 4096
    assert "'share' = 'on'" in refusal(
        services,
        qom_type="memory-backend-file",
        id="m",
        size=4096,
        mem_path=str(path),
        readonly=True,
        share=True,
    )


def test_a_sealed_file_keeps_its_size(services: Services) -> None:
    made = add(services, qom_type="memory-backend-memfd", id="m", size=4096)
    with pytest.raises(PermissionError):
        os.ftruncate(made.block.fd, 0)
    delete(services, "m")
    made = add(services, qom_type="memory-backend-memfd", id="m", size=4096, seal=False)
    os.ftruncate(made.block.fd, 8192)
    delete(services, "m")


def test_preallocated_memory_is_there(services: Services) -> None:
    size = 1 << 20
    made = add(services, qom_type="memory-backend-memfd", id="m", size=size, prealloc=True)
    assert os.fstat(made.block.fd).st_blocks * 512 == size
    delete(services, "m")


@pytest.mark.parametrize("step", ["make", "advise", "populate"])
def test_a_failure_at_any_step_leaves_nothing_behind(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise GenericError(f"{step} failed")

    places: dict[str, tuple[Any, str]] = {
        "make": (MemoryBackend, "_prepare"),
        "advise": (backends, "_advise"),
        "populate": (backends, "_populate"),
    }
    monkeypatch.setattr(*places[step], fail)
    descriptors = os.listdir("/proc/self/fd")
    options = parse_type(
        "ObjectOptions",
        {
            "qom-type": "memory-backend-file",
            "id": "m",
            "size": 4096,
            "mem-path": str(tmp_path),
            "prealloc": True,
        },
    )
    with pytest.raises(GenericError, match=f"{step} failed"):
        asyncio.run(add_object(services.tree, options))
    assert set(os.listdir("/proc/self/fd")) <= set(descriptors)
    assert services.tree.objects.children == {}
    monkeypatch.undo()
    asyncio.run(add_object(services.tree, options))
    delete(services, "m")


def test_memory_that_comes_after_its_client_gave_up_is_given_back(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(block: Any) -> None:
        asked.set()
        go.wait()

    monkeypatch.setattr(backends, "_populate", slow)
    options = parse_type(
        "ObjectOptions", {"qom-type": "memory-backend-ram", "id": "m", "size": 4096, "prealloc": True}
    )
    descriptors = os.listdir("/proc/self/fd")

    async def main() -> None:
        task = asyncio.create_task(add_object(services.tree, options))
        await asyncio.to_thread(asked.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert services.tree.objects.children == {}
        go.set()

    asyncio.run(main())
    assert set(os.listdir("/proc/self/fd")) <= set(descriptors)


def test_an_object_under_way_has_its_name_but_cannot_go(services: Services) -> None:
    async def main() -> None:
        going = asyncio.Event()

        async def wait(*arguments: Any) -> None:
            await going.wait()
            raise GenericError("came to nothing")

        options = parse_type("ObjectOptions", {"qom-type": "memory-backend-ram", "id": "m", "size": 4096})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "to_thread", wait)
            first = asyncio.create_task(add_object(services.tree, options))
            await asyncio.sleep(0)
            with pytest.raises(GenericError, match="duplicate"):
                await add_object(services.tree, options)
            with pytest.raises(GenericError, match="in use"):
                await services.qom.object_del(id="m")
            going.set()
            with pytest.raises(GenericError, match="came to nothing"):
                await first

    asyncio.run(main())
    assert services.tree.objects.children == {}


def test_secrets(services: Services, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(bytes(range(256)))
    add(services, qom_type="secret", id="raw", data="ä")
    add(services, qom_type="secret", id="base64", data="aGk=\n", format="base64")
    add(services, qom_type="secret", id="file", file=str(file))
    assert secret_of(services.tree, "raw") == "ä".encode()
    assert secret_of(services.tree, "base64") == b"hi"
    assert secret_of(services.tree, "file") == bytes(range(256))
    add(services, qom_type="memory-backend-ram", id="m", size=mmap.PAGESIZE)
    with pytest.raises(GenericError, match="No secret with id 'nope'"):
        secret_of(services.tree, "nope")
    with pytest.raises(GenericError, match="Object with id 'm' is not a secret"):
        secret_of(services.tree, "m")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in refusal(services, qom_type="secret", id="p", file=str(pipe))
    delete(services, "m")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("host-nodes=3", [3]),
        ("host-nodes=0-2,host-nodes=5", [0, 1, 2, 5]),
        ("host-nodes=70000", "Parameter 'null' expects uint16_t"),
        ("host-nodes=3-1", "Parameter 'host-nodes' expects a uint64 value or range"),
        ("host-nodes=0-99999999", "Parameter 'host-nodes' expects a uint64 value or range"),
        ("host-nodes=0-x", "Parameter 'host-nodes' expects a uint64 value or range"),
        ("host-nodes=-1", "Parameter 'host-nodes' expects a uint64 value or range"),
        ("host-nodes=\u00b2", "Parameter 'host-nodes' expects a uint64 value or range"),
        ("host-nodes=", "Parameter 'host-nodes' expects a uint64 value or range"),
        ("host-nodes.0=1", "Invalid parameter 'host-nodes.0'"),
        ("foo=1,share=x", "Parameter 'share' expects 'on' or 'off'"),
        ("foo=1,share=on", "Invalid parameter 'foo'"),
        ("size=x", "Parameter 'size' expects a size value"),
        ("qom-type=nope", "Parameter 'qom-type' does not accept value 'nope'"),
    ],
)
def test_the_command_lines_syntax(text: str, result: list[int] | str) -> None:
    whole = f"memory-backend-ram,id=m,size=1M,{text}"
    if isinstance(result, str):
        with pytest.raises(GenericError) as caught:
            options_from_text(whole, lambda warning: None)
        assert str(caught.value) == result
    else:
        options = options_from_text(whole, lambda warning: None)
        assert (options.size, options.host_nodes) == (1 << 20, result)


def test_short_forms_are_warned_of() -> None:
    warnings: list[str] = []
    options = options_from_text("memory-backend-ram,id=m,size=1M,share", warnings.append)
    assert options.share is True
    assert "short-form boolean option 'share' deprecated" in warnings[0]

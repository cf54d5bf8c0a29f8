"""The same questions about objects and devices to Debian's QEMU and to qemud: the same answers, where both have the subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qemud.hw.versions import VERSIONS
from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-monitor", "none")
LOADER = (
    "-device",
    "loader,addr=0x80001000,data=0x1234,data-len=4,id=l1",
    "-device",
    "loader,addr=4,cpu-num=0",
)

# The class is a detail of how QEMU is built; here it would have no properties and no children of its own.
OTHER_PARENTS = {
    "secret": "secret_common",
    "rv64-riscv-cpu": "riscv-dynamic-cpu",
    "max-riscv-cpu": "riscv-dynamic-cpu",
}
OURS = {
    *("riscv-boot-loader", "riscv-sbi"),  # code of the board, of the emulator itself, in QEMU
    *(f"{name}-machine" for name in VERSIONS),  # QEMU's board of that name has no versions on RISC-V
}
OTHER_TYPES = {
    "busnr": "busnr",  # a type of its own there
    "guest-stats": "guest statistics",  # a structure
    "host-nodes": "int",  # an array of them, in truth
    "insert": "string",  # one of two
    "interval": "uint32",  # objects of this kind are precise about their numbers
    "maxlen": "uint32",
    "pflash0": "str",  # a drive by its name, which QEMU's board hands on to a device
    "pflash1": "str",
    "rules": "QAuthZListRule",  # one of two
    "thread": "string",  # one of two
}


def ask(program: Program, command: str, arguments: dict[str, Any]) -> Any:
    """What is answered, errors too."""
    try:
        return program.qmp.command(command, **arguments)
    except QmpError as error:
        return f"{error.error_class}: {error}"


def test_types_have_the_same_parents_properties_and_defaults(daemon: Starter, reference: Starter) -> None:
    ours, theirs = daemon(*BOARD), reference(*BOARD)
    here, there = (
        {info["name"]: info for info in program.qmp.command("qom-list-types", abstract=True)}
        for program in (ours, theirs)
    )
    assert here.keys() - there.keys() == OURS
    for name in here.keys() - OURS:
        assert here[name].get("abstract") == there[name].get("abstract"), name
        assert there[name].get("parent") == OTHER_PARENTS.get(name, here[name].get("parent")), name
        if here[name].get("abstract"):
            continue
        known = {info["name"]: info for info in theirs.qmp.command("qom-list-properties", typename=name)}
        for info in ours.qmp.command("qom-list-properties", typename=name):
            if info["name"].startswith("x-fdt-"):
                continue  # by which versions of the board differ; QEMU's has none
            known_info = known[info["name"]]
            assert known_info["type"] == OTHER_TYPES.get(info["name"], info["type"]), (name, info)
            if "default-value" in known_info and info["name"] != "addr":  # there it is -1, a number
                assert info["default-value"] == known_info["default-value"], (name, info)


SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("object-add", {"qom-type": "memory-backend-ram", "id": "m", "size": 4096}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "m", "size": 4096}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "type", "size": 4096}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "", "size": 4096}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "-", "size": 0}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "n", "size": 0}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "n", "size": 4096, "policy": "bind"}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "n", "size": 4096, "host-nodes": [0]}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "n", "size": 4096, "host-nodes": [1, 65536]}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "n", "size": 4096, "host-nodes": 1}),
    (
        "object-add",
        {"qom-type": "memory-backend-ram", "id": "n", "size": 4096, "policy": "bind", "host-nodes": [200]},
    ),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "n", "size": 4096, "share": "on"}),
    ("object-add", {"qom-type": "memory-backend-file", "id": "n", "size": 4096}),
    (
        "object-add",
        {"qom-type": "memory-backend-file", "id": "n", "size": 4096, "mem-path": "/nonexistent/x"},
    ),
    ("object-add", {"qom-type": "memory-backend-memfd", "id": "f", "size": 8192, "seal": False}),
    ("object-add", {"qom-type": "secret", "id": "s"}),
    ("object-add", {"qom-type": "secret", "id": "s", "data": "x", "file": "/x"}),
    ("object-add", {"qom-type": "secret", "id": "s", "file": "/nonexistent"}),
    ("object-add", {"qom-type": "secret", "id": "s", "data": "$", "format": "base64"}),
    ("object-add", {"qom-type": "secret", "id": "s", "data": "aGk=", "format": "base64"}),
    ("object-add", {"qom-type": "authz-simple", "id": "a"}),
    ("object-add", {"qom-type": "authz-simple", "id": "a", "identity": "CN=a"}),
    ("object-add", {"qom-type": "authz-list", "id": "l", "policy": "perhaps"}),
    ("object-add", {"qom-type": "authz-list", "id": "l", "rules": [{"match": "x"}]}),
    ("object-add", {"qom-type": "authz-list", "id": "l", "rules": [{"match": "x", "policy": "allow"}]}),
    ("qom-get", {"path": "l", "property": "policy"}),
    ("qom-set", {"path": "l", "property": "policy", "value": "allow"}),
    ("qom-get", {"path": "l", "property": "policy"}),
    ("object-add", {"qom-type": "tls-creds-x509", "id": "t"}),
    ("object-add", {"qom-type": "tls-creds-x509", "id": "t", "dir": "/nonexistent", "endpoint": "server"}),
    ("object-add", {"qom-type": "tls-creds-x509", "id": "t", "dir": "/nonexistent", "endpoint": "both"}),
    ("object-add", {"qom-type": "tls-creds-psk", "id": "t", "endpoint": "server", "username": "x"}),
    ("object-add", {"qom-type": "tls-creds-psk", "id": "t", "dir": "/nonexistent"}),
    ("qom-get", {"path": "/objects/m", "property": "size"}),
    ("qom-get", {"path": "m", "property": "share"}),
    ("qom-get", {"path": "f", "property": "share"}),
    ("qom-get", {"path": "f", "property": "seal"}),
    ("qom-get", {"path": "m", "property": "policy"}),
    ("qom-get", {"path": "m", "property": "host-nodes"}),
    ("qom-get", {"path": "s", "property": "format"}),
    ("qom-get", {"path": "s", "property": "file"}),
    ("qom-get", {"path": "m", "property": "type"}),
    ("qom-get", {"path": "m", "property": "nope"}),
    ("qom-set", {"path": "m", "property": "dump", "value": False}),
    ("qom-get", {"path": "m", "property": "dump"}),
    ("qom-set", {"path": "m", "property": "dump", "value": 1}),
    ("qom-set", {"path": "m", "property": "type", "value": "x"}),
    ("qom-set", {"path": "m", "property": "nope", "value": 1}),
    ("qom-get", {"path": "/", "property": "objects"}),
    ("qom-get", {"path": "/objects", "property": "m"}),
    ("qom-set", {"path": "/objects", "property": "m", "value": "x"}),
    ("qom-get", {"path": "/machine/unattached/device[14]", "property": "type"}),
    ("qom-get", {"path": "/machine/unattached/device[14]", "property": "realized"}),
    ("qom-get", {"path": "/machine/unattached/device[14]", "property": "parent_bus"}),
    ("qom-set", {"path": "/machine/unattached/device[14]", "property": "regshift", "value": 1}),
    ("qom-get", {"path": "/machine/soc0/harts[0]", "property": "type"}),
    ("qom-get", {"path": "/chardevs/serial0", "property": "type"}),
    ("qom-get", {"path": "main-system-bus", "property": "type"}),
    ("qom-get", {"path": "l1", "property": "addr"}),
    ("qom-get", {"path": "l1", "property": "data-len"}),
    ("qom-get", {"path": "l1", "property": "file"}),
    ("qom-get", {"path": "l1", "property": "hotpluggable"}),
    ("qom-get", {"path": "l1", "property": "hotplugged"}),
    ("qom-set", {"path": "l1", "property": "addr", "value": 1}),
    ("qom-set", {"path": "/machine/peripheral-anon/device[0]", "property": "addr", "value": 1}),
    ("qom-list", {"path": "/machine/peripheral"}),
    ("qom-list", {"path": "/machine/peripheral-anon"}),
    ("qom-list", {"path": ""}),
    ("qom-list", {"path": "type"}),
    ("qom-list", {"path": "/objects/m/nope"}),
    ("device_add", {"driver": "loader"}),
    ("device_add", {"driver": "loader", "id": "l1"}),
    ("device_add", {"driver": "serial-mm"}),
    ("device_add", {"driver": "goldfish_rtc"}),
    ("device_add", {"driver": "device"}),
    ("device_add", {"driver": "secret"}),
    ("device_add", {"driver": None}),
    ("device_add", {"driver": "loader", "bus": "nope"}),
    ("device_add", {"driver": "loader", "bus": "main-system-bus"}),
    ("device_add", {"driver": "loader", "bus": "main-system-bus/loader"}),
    ("device_add", {"driver": "loader", "bus": "/nope"}),
    ("device_add", {"driver": "loader", "bus": ""}),
    ("device_del", {"id": "l1"}),
    ("device_del", {"id": "/machine/peripheral-anon/device[0]"}),
    ("device_del", {"id": "/machine"}),
    ("device_del", {"id": "/machine/soc0/harts[0]"}),
    ("device_del", {"id": "device[0]"}),
    ("device-list-properties", {"typename": "machine"}),
    ("qom-list-properties", {"typename": "nope"}),
    ("qom-list-properties", {"typename": "user-creatable"}),
    ("qom-list-types", {"implements": "nope"}),
    ("qom-list-types", {"implements": "memory-backend-ram"}),
    ("object-del", {"id": "m"}),
    ("object-del", {"id": "m"}),
    ("object-del", {"id": "type"}),
]


def test_a_long_conversation_goes_the_same_way(daemon: Starter, reference: Starter) -> None:
    ours, theirs = daemon(*BOARD, *LOADER), reference(*BOARD, *LOADER)
    different = []
    for command, arguments in SCRIPT:
        want, got = (order(ask(program, command, arguments)) for program in (theirs, ours))
        if want != got:
            different.append(f"{command} {arguments}\n  QEMU  {want}\n  qemud {got}")
    assert not different, "\n".join(different)


def test_loaders_fill_memory_alike(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(range(256)) * 5)
    loaders = [
        "addr=0x80100000,data=0x1122334455667788,data-len=8",
        "addr=0x80100010,data=0x1122334455667788,data-len=3",
        "addr=0x80100020,data=0x1122334455667788,data-len=8,data-be=on",
        "addr=0x80100030,data=0x1122334455667788,data-len=3,data-be=on",
        "addr=0x80100040,data=0,data-len=4",
        f"addr=0x80100100,file={blob}",
        f"addr=0x80101001,file={blob},force-raw=on",
    ]
    options = [word for text in loaders for word in ("-device", f"loader,{text}")]
    memory = []
    for name, start in (("ours", daemon), ("theirs", reference)):
        file = tmp_path / name
        program = start(*BOARD, *options)
        program.qmp.command("pmemsave", val=0x80100000, size=0x2000, filename=str(file))
        memory.append(file.read_bytes())
    assert memory[0] == memory[1]
    assert memory[0][:8].hex() == "8877665544332211"


def order(answer: Any) -> Any:
    """Lists of properties have no order."""
    return sorted(answer, key=str) if isinstance(answer, list) else answer

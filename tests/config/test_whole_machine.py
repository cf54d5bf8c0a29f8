"""Documents of machines with disks and networks: the same machine, as a client sees it, comes of its own document."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.daemon import config
from qemud.qapi.runtime.document import DocumentError, read_document
from tests.config.test_document import check_both_ways, own, within
from tests.programs import LIMIT, QEMUD, Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import QmpClient

SIZE = 1 << 20
FLASH = 32 << 20
MACHINE = {"type": "virt-10.0", "memory": {"size": 32 << 20}}
DESCRIBED = ("-machine", "virt", "-m", "32", "-display", "none", "-nodefaults", "-S")


def seen(qmp: QmpClient, *, with_devices: bool = True) -> Any:
    """What a client sees of disks, networks and devices, but for names that nobody gave."""
    devices = [
        f"/machine/peripheral/{each['name']}"
        for each in qmp.command("qom-list", path="/machine/peripheral")
        if each["name"] != "type"
    ]
    view = {
        "block": qmp.command("query-block"),
        "nodes": qmp.command("query-named-block-nodes"),
        "devices": qmp.command("qom-list-get", paths=devices) if with_devices else [],
        "pci": qmp.command("query-pci"),
        "filters": qmp.command("query-rx-filter"),
    }
    for what in ("info block -n -v", "info network", *(["info qtree"] if with_devices else [])):
        view[what] = qmp.command("human-monitor-command", {"command-line": what}).split("\r\n")
    text = re.sub(
        r'#?block\d+(-\d+)?|#?net\d{3}\b|0x[0-9a-f]{8,}|/[^"\\]*/vl\.\w+',
        "NAME",
        json.dumps(view, sort_keys=True),
    )
    result: dict[str, list[Any]] = json.loads(text)
    return {name: sorted(told, key=json.dumps) for name, told in result.items()}


def again(daemon: Starter, program: Program, tmp_path: Path, *, plugged: bool = False) -> dict[str, Any]:
    """End a machine, make it again from its document, and see that it is the same; the document.

    With `plugged` it had other devices when it started: that they came late is no part of a machine.
    """
    first = own(program.qmp.command("query-config"))
    view = seen(program.qmp, with_devices=not plugged)
    program.qmp.command("quit")
    program.wait()
    path = tmp_path / "again.json"
    path.write_text(json.dumps(first, indent=1))
    config.check(read_document(str(path)))
    second = daemon("--config", str(path)).qmp
    assert own(second.command("query-config")) == first
    assert seen(second, with_devices=not plugged) == view
    second.command("quit")
    return first


def image(path: Path, *arguments: str, size: int = SIZE) -> str:
    """An empty image."""
    command = ("qemu-img", "create", "-q", *arguments, str(path), str(size))
    subprocess.run(command, check=True, timeout=LIMIT)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images: base.raw, top.qcow2 on it, flash.raw."""
    image(tmp_path / "base.raw", "-f", "raw")
    image(tmp_path / "top.qcow2", "-f", "qcow2", "-b", str(tmp_path / "base.raw"), "-F", "raw")
    image(tmp_path / "flash.raw", "-f", "raw", size=FLASH)
    return tmp_path


# Machines at random.

DISKS = ("virtio-blk-device", "virtio-blk-pci", "scsi-hd")
COMMON = st.fixed_dictionaries(
    {},
    optional={
        "auto-read-only": st.booleans(),
        "discard": st.sampled_from(["ignore", "unmap"]),
        "detect-zeroes": st.sampled_from(["off", "on"]),
    },
)


@st.composite
def machines(draw: st.DrawFn, folder: Path) -> dict[str, Any]:
    """A machine with some disks and cards."""
    document: dict[str, Any] = {
        "paused": True,
        "machine": MACHINE,
        "objects": [
            {"qom-type": "throttle-group", "id": "slow", "limits": {"bps-total": 1 << 30}},
        ],
        "blockdevs": [],
        "drives": [],
        "netdevs": [],
        "fw-cfg": draw(st.sampled_from([[], [{"name": "opt/a,b", "string": "x = 1, y"}]])),
        "devices": [
            {"driver": "virtio-scsi-pci", "id": "scsi"},
            {"driver": "pcie-root-port", "id": "rp", "chassis": 1},
        ],
    }
    for number in range(draw(st.integers(0, 3))):
        leaf: Any = {"driver": "file", "filename": str(folder / f"{number}.qcow2"), **draw(COMMON)}
        if draw(st.booleans()):
            document["blockdevs"].append({**leaf, "node-name": f"file{number}"})
            leaf = f"file{number}"
        node: dict[str, Any] = {"driver": "qcow2", "file": leaf, **draw(COMMON)}
        match draw(st.integers(0, 2)):
            case 1:
                node["backing"] = None
            case 2:
                node["backing"] = {"driver": "null-co", "size": SIZE, "node-name": f"null{number}"}
        if draw(st.booleans()):
            node = {"driver": "throttle", "throttle-group": "slow", "file": node}
        name, as_drive = f"disk{number}", draw(st.booleans())
        if as_drive:
            drive = draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "werror": st.just("stop"),
                        "snapshot": st.just(value=True),
                        "copy-on-read": st.just(value=True),
                        "limits": st.just({"iops-total": 1000}),
                    },
                )
            )
            document["drives"].append({"id": name, "medium": node, **drive})
        else:
            document["blockdevs"].append({**node, "node-name": name})
        driver = draw(st.sampled_from([*DISKS, None]))
        if driver is not None:
            device = {"driver": driver, "id": f"dev{number}", "drive": name}
            if driver == "scsi-hd":
                device["bus"] = "scsi.0"
            document["devices"].append(device)
    for number in range(draw(st.integers(0, 2))):
        backend = draw(
            st.sampled_from(
                [
                    {"type": "user", "restrict": True},
                    {
                        "type": "stream",
                        "server": True,
                        "addr": {"type": "unix", "path": str(folder / f"n{number}")},
                    },
                    {"type": "hubport", "hubid": 1},
                ]
            )
        )
        document["netdevs"].append({"id": f"net{number}", **backend})
        document["devices"].append(
            {
                "driver": draw(st.sampled_from(["virtio-net-device", "virtio-net-pci"])),
                "id": f"card{number}",
                "netdev": f"net{number}",
            }
        )
        if draw(st.booleans()):
            document["objects"].append(
                {"qom-type": "filter-buffer", "id": f"f{number}", "netdev": f"net{number}", "interval": 1000}
            )
    return document


@settings(max_examples=6)
@given(data=st.data())
@pytest.mark.needs("qemu-img")
def test_a_machine_from_its_own_document_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    folder = tmp_path_factory.mktemp("machine")
    image(folder / "base.raw", "-f", "raw")
    for number in range(3):
        image(folder / f"{number}.qcow2", "-f", "qcow2", "-b", str(folder / "base.raw"), "-F", "raw")
    document = data.draw(machines(folder))
    path = folder / "machine.json"
    path.write_text(json.dumps(document))
    config.check(read_document(str(path)))
    with Program(QEMUD, "--config", str(path)) as program:
        first, view = own(program.qmp.command("query-config")), seen(program.qmp)
    said = {member: value for member, value in document.items() if value != []}
    for member in ("objects", "netdevs", "devices", "fw-cfg"):
        assert within(said.get(member, []), first.get(member, []))
    path.write_text(json.dumps(first))
    config.check(read_document(str(path)))
    with Program(QEMUD, "--config", str(path)) as program:
        assert own(program.qmp.command("query-config")) == first
        assert seen(program.qmp) == view


@settings(max_examples=60)
@given(data=st.data())
def test_both_checks_agree(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.getbasetemp()
    check_both_ways(folder / "mutated-disks.json", data.draw(machines(folder)), data)


# Machines of the command line, and what clients make of them.


@pytest.mark.needs("qemu-img")
def test_the_command_line_is_in_the_document(daemon: Starter, folder: Path):
    program = daemon(
        *DESCRIBED,
        *("-drive", f"if=pflash,unit=1,format=raw,file={folder}/flash.raw"),
        *("-drive", f"if=virtio,file={folder}/top.qcow2,werror=stop,detect-zeroes=unmap,discard=unmap"),
        *("-drive", "if=none,id=cd,media=cdrom"),
        *(
            "-blockdev",
            "null-co,node-name=n0,size=1048576",
            "-blockdev",
            "raw,node-name=r0,file=n0,read-only=on",
        ),
        *("-device", "virtio-scsi-device,id=s", "-device", "scsi-cd,drive=cd,id=c0"),
        *("-device", "scsi-cd,id=c1", "-device", "scsi-hd,drive=r0,bus=s.0"),
        *("-netdev", "user,id=u0,hostname=a", "-device", "virtio-net-pci,netdev=u0,mac=52:54:00:00:00:01"),
        *("-nic", "user", "-net", "user"),
        *("-object", "filter-buffer,id=f0,netdev=u0,interval=5"),
        *("-fw_cfg", "name=opt/x,string=a,,b", "-fw_cfg", f"opt/y,file={folder}/base.raw"),
    )
    document = again(daemon, program, folder)
    assert [each["id"] for each in document["drives"]] == ["pflash1", "virtio0", "cd"]
    assert [each["if"] for each in document["drives"]] == ["pflash", "virtio", "none"]
    assert document["drives"][2] == {
        "id": "cd",
        "if": "none",
        "read-only": True,
        "werror": "enospc",
        "rerror": "report",
    }
    assert [each["node-name"] for each in document["blockdevs"]] == ["n0", "r0"]
    assert [(each["type"], each["id"]) for each in document["netdevs"]] == [
        ("user", "u0"),
        ("user", "net000"),
        ("user", "net001"),
        ("hubport", "hub0port0"),
    ]
    assert document["fw-cfg"] == [
        {"name": "opt/x", "string": "a,b"},
        {"name": "opt/y", "file": f"{folder}/base.raw"},
    ]
    # The drive's own device comes after those that were asked for, and once.
    drivers = [each["driver"] for each in document["devices"]]
    assert drivers == [
        "virtio-scsi-device",
        "scsi-cd",
        "scsi-cd",
        "scsi-hd",
        "virtio-net-pci",
        "virtio-blk-pci",
    ]
    assert document["devices"][-1]["drive"] == "virtio0"


@pytest.mark.needs("qemu-img")
def test_what_clients_have_changed_is_in_the_document(daemon: Starter, folder: Path):
    program = daemon(
        *DESCRIBED,
        *("-blockdev", f"qcow2,node-name=top,file.driver=file,file.filename={folder}/top.qcow2"),
        *("-device", "pcie-root-port,id=rp,chassis=1", "-device", "pcie-root-port,id=rp2,chassis=2"),
        *("-device", "virtio-scsi-device", "-device", "virtio-blk-device,drive=top,id=vd"),
        *("-netdev", "user,id=u0", "-device", "virtio-net-device,netdev=u0,id=card"),
        *("-netdev", "user,id=u1", "-netdev", "hubport,id=h0,hubid=0,netdev=u1"),
    )
    qmp = program.qmp
    qmp.command(
        "blockdev-snapshot-sync",
        {"node-name": "top", "snapshot-file": f"{folder}/new.qcow2", "snapshot-node-name": "new"},
    )
    qmp.command("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": SIZE})
    qmp.command("device_add", driver="virtio-blk-pci", drive="n0", id="hot", bus="rp2")
    qmp.command("netdev_add", type="user", id="u2", restrict=True)
    qmp.command("device_add", driver="virtio-net-pci", netdev="u2", id="card2", bus="rp")
    qmp.command("human-monitor-command", {"command-line": "hostfwd_add u2 tcp:127.0.0.1:0-:22"})
    qmp.command("netdev_del", id="u1")
    qmp.command("netdev_del", id="u0")
    qmp.command("netdev_add", type="user", id="u0")
    document = own(qmp.command("query-config"))
    devices = {each.get("id", each["driver"]): each for each in document["devices"]}
    assert devices["vd"]["drive"] == "new"
    assert devices["hot"]["bus"] == "rp2"
    assert "netdev" not in devices["card"]
    assert devices["card2"]["netdev"] == "u2"
    assert document["netdevs"] == [
        {"type": "hubport", "id": "h0", "hubid": 0},
        {"type": "user", "id": "u2", "restrict": True, "hostfwd": [{"str": "tcp:127.0.0.1:0-:22"}]},
        {"type": "user", "id": "u0"},
    ]
    again(daemon, program, folder, plugged=True)


@pytest.mark.needs("qemu-img")
def test_a_medium_that_was_changed(daemon: Starter, folder: Path):
    program = daemon(
        *DESCRIBED,
        *("-device", "virtio-scsi-device", "-device", "scsi-cd,id=cd"),
        *("-drive", "if=none,id=d0,media=cdrom", "-device", "scsi-cd,drive=d0,id=cd0"),
    )
    for name in ("cd", "cd0"):
        program.qmp.command(
            "blockdev-change-medium",
            {"id": name, "filename": f"{folder}/base.raw", "format": "raw", "read-only-mode": "read-only"},
        )
    document = again(daemon, program, folder, plugged=True)
    devices = {each.get("id"): each for each in document["devices"]}
    # It had no name that a client can give; now it has one.
    assert devices["cd"]["drive"] == document["blockdevs"][0]["node-name"]
    assert document["drives"][0]["medium"]["file"]["filename"] == f"{folder}/base.raw"


@pytest.mark.needs("qemu-img")
def test_flash_memory_by_its_node(daemon: Starter, folder: Path):
    program = daemon(
        *("-machine", "virt,pflash0=f0", "-m", "32", "-display", "none", "-nodefaults", "-S"),
        *("-blockdev", f"file,node-name=f0,filename={folder}/flash.raw"),
    )
    assert again(daemon, program, folder)["machine"]["pflash0"] == "f0"


def test_what_is_still_to_be_made_is_in_the_document(daemon: Starter, tmp_path: Path):
    program = daemon(
        *DESCRIBED,
        "-preconfig",
        *("-drive", "if=virtio,driver=null-co,size=1048576", "-netdev", "user,id=n"),
        *(
            "-device",
            "virtio-net-device,netdev=n,id=card",
            "-device",
            '{"driver": "virtio-scsi-pci", "id": "s"}',
        ),
    )
    qmp = program.qmp
    before = own(qmp.command("query-config"))
    qmp.command("x-exit-preconfig")
    after = own(qmp.command("query-config"))
    names = ["card", "s", None]
    assert (
        [each.get("id") for each in before["devices"]]
        == [each.get("id") for each in after["devices"]]
        == names
    )
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(before))
    assert own(daemon("--config", str(path)).qmp.command("query-config")) == after


def test_descriptors_must_be_passed_again(daemon: Starter, tmp_path: Path):
    here, there = socket.socketpair()
    with here, there:
        number = there.fileno()
        netdev = {"type": "socket", "id": "n", "fd": str(number)}
        program = daemon(*DESCRIBED, "-netdev", json.dumps(netdev), pass_fds=[number])
        document = own(program.qmp.command("query-config"))
        assert document["netdevs"] == [netdev]
        path = tmp_path / "machine.json"
        path.write_text(json.dumps(document, indent=1))
        again = daemon("--config", str(path), pass_fds=[number])
        assert own(again.qmp.command("query-config")) == document
        # Nobody but us knows what the number meant.
        done = subprocess.run([QEMUD, "--config", path], capture_output=True, text=True, timeout=LIMIT)
    line = path.read_text().split("\n").index(' "netdevs": [') + 2
    assert done.returncode == 1
    assert done.stderr.startswith(f"{QEMUD}: {path}:{line}: netdevs[0]: ")
    assert str(number) in done.stderr.partition("netdevs[0]: ")[2]


# What is wrong.


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            '{"blockdevs": [\n{"driver": "qcow2", "node-name": "a",\n"file": {"driver": "file",\n"filename": 5}}]}',
            "4: Invalid parameter type for 'blockdevs[0].file.filename', expected: string",
        ),
        (
            '{"blockdevs": [\n{"driver": "null-co", "node-name": "a",\n"nope": 1}]}',
            "3: Parameter 'blockdevs[0].nope' is unexpected",
        ),
        (
            '{"blockdevs": [{"driver": "raw", "node-name": "a",\n"file": {"driver": "null-co",\n"sise": 1}}]}',
            "3: Parameter 'blockdevs[0].file.sise' is unexpected",
        ),
        (
            '{"drives": [{"id": "a",\n"werror": "explode"}]}',
            "2: Parameter 'drives[0].werror' does not accept value 'explode'",
        ),
        (
            '{"netdevs": [{"id": "n",\n"type": "teleport"}]}',
            "2: Parameter 'netdevs[0].type' does not accept value 'teleport'",
        ),
        ('{"fw-cfg": [\n{"name": 3}]}', "2: Invalid parameter type for 'fw-cfg[0].name', expected: string"),
    ],
)
def test_errors_name_the_line_and_the_path(tmp_path: Path, document: str, told: str):
    path = tmp_path / "machine.json"
    path.write_text(document)
    with pytest.raises(DocumentError) as caught:
        config.check(read_document(str(path)))
    assert str(caught.value) == f"{path}:{told}"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            '{"blockdevs": [\n{"driver": "null-co", "node-name": "a"},\n{"driver": "file", "node-name": "b", "filename": "/no/b"}]}',
            "3: blockdevs[1]: Could not open '/no/b': No such file or directory",
        ),
        (
            '{"machine": {"type": "virt"},\n"drives": [\n{"id": "d", "medium": "nobody"}]}',
            "3: drives[0]: Cannot find device='nobody' nor node-name='nobody'",
        ),
        (
            '{"machine": {"type": "none"},\n"drives": [\n{"id": "d", "if": "pflash"}]}',
            "3: drives[0]: machine type does not support if=pflash,bus=0,unit=0",
        ),
        (
            '{"machine": {"type": "virt"},\n"netdevs": [{"id": "n", "type": "user"},\n{"id": "n", "type": "user"}]}',
            "3: netdevs[1]: Duplicate ID 'n'",
        ),
        (
            '{"machine": {"type": "virt"},\n"fw-cfg": [\n{"name": "opt/x"}]}',
            "3: fw-cfg[0]: name, plus exactly one of file, string and gen_id, are needed",
        ),
    ],
    ids=["node", "drive", "place", "network", "firmware"],
)
def test_what_is_wrong_only_when_it_is_made(tmp_path: Path, document: str, told: str):
    path = tmp_path / "machine.json"
    path.write_text(document)
    done = subprocess.run([QEMUD, "--config", str(path)], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert done.stderr == f"{QEMUD}: {path}:{told}\n"


def test_limits_of_a_disk_without_a_drive(daemon: Starter, folder: Path):
    program = daemon(
        *DESCRIBED,
        *("-blockdev", "null-co,node-name=n0,size=1048576", "-blockdev", "null-co,node-name=n1,size=1048576"),
        *("-blockdev", "null-co,node-name=vdc,size=1048576"),
        *("-device", "virtio-blk-pci,id=vda,drive=n0,rerror=stop", "-device", "virtio-blk-pci,drive=n1"),
        *("-device", "virtio-blk-pci,id=vdc,drive=vdc,account-failed=off"),
    )
    none = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    paths = [each["qdev"] for each in program.qmp.command("query-block")]
    shared = {"iops_rd": 7, "group": "shared"}
    several = {"bps": 1 << 20, "bps_max": 2 << 20, "iops": 9, "iops_size": 4096, "group": "vda"}
    for path, limits in zip(paths, (several, shared, shared), strict=True):
        program.qmp.command("block_set_io_throttle", {**none, "id": path, **limits})
    shown = program.qmp.command("query-block")
    document = own(program.qmp.command("query-config"))
    program.qmp.command("quit")
    # The names of their devices, where nothing else has them.
    assert [each["id"] for each in document["drives"]] == ["vda", "disk", "vdc-1"]
    assert [each.get("group") for each in document["drives"]] == [None, "shared", "shared"]
    assert [each["drive"] for each in document["devices"]] == ["vda", "disk", "vdc-1"]

    def without_names(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(
            ({name: value for name, value in each.items() if name != "device"} for each in told),
            key=lambda each: str(each["qdev"]),
        )

    (folder / "again.json").write_text(json.dumps(document))
    fresh = daemon("--config", str(folder / "again.json")).qmp
    assert own(fresh.command("query-config")) == document
    assert without_names(fresh.command("query-block")) == without_names(shown)
    # They are limits as before: the command changes them, and takes them away.
    fresh.command("block_set_io_throttle", {**none, "id": paths[0]})
    told = next(
        each for each in fresh.command("query-block") if each["qdev"].startswith("/machine/peripheral/vda")
    )
    assert told["inserted"]["bps"] == 0

"""The NBD server beside QEMU's, as nbdinfo, qemu-img and qemu-io see them."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.pki import Authority
from tests.programs import LIMIT, QEMU, QmpError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.conftest import Starter
    from tests.programs import Program

NOTHING = ("-machine", "none", "-nodefaults", "-display", "none")
ADDRESS = {"type": "unix", "data": {"path": "s"}}
EXPORT = {"type": "nbd", "id": "e", "node-name": "a"}
URI = "nbd+unix:///a?socket=s"
MAP_OPTIONS = "driver=nbd,export=a,server.type=unix,server.path=s"

Step = tuple[str, dict[str, Any]]

REFUSALS: list[Step] = [
    ("block-export-add", EXPORT),
    ("nbd-server-stop", {}),
    ("nbd-server-remove", {"name": "e"}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "nowhere/s"}}}),
    ("nbd-server-start", {"addr": ADDRESS, "tls-creds": "nope"}),
    ("nbd-server-start", {"addr": ADDRESS}),
    ("nbd-server-start", {"addr": ADDRESS}),
    ("block-export-add", {**EXPORT, "id": "1"}),
    ("block-export-add", {**EXPORT, "node-name": "nope"}),
    ("block-export-add", {**EXPORT, "node-name": "ro", "writable": True}),
    ("block-export-add", {**EXPORT, "name": "x" * 4097}),
    ("block-export-add", {**EXPORT, "description": "x" * 4097}),
    ("block-export-add", {**EXPORT, "bitmaps": ["nope"]}),
    ("block-dirty-bitmap-add", {"node": "a", "name": "b0"}),
    ("block-export-add", {**EXPORT, "bitmaps": ["b0"]}),
    ("block-export-add", {**EXPORT, "bitmaps": ["b0"], "writable": True}),
    ("block-dirty-bitmap-remove", {"node": "a", "name": "b0"}),
    ("block-export-add", {**EXPORT, "id": "e"}),
    ("block-export-add", {**EXPORT, "id": "e2"}),
    ("block-export-add", {**EXPORT, "id": "e2", "name": "other"}),
    ("block-export-add", {**EXPORT, "type": "bad"}),
    ("query-block-exports", {}),
    ("blockdev-del", {"node-name": "a"}),
    ("block_resize", {"node-name": "a", "size": 1 << 20}),
    ("block-export-del", {"id": "nope"}),
    ("block-export-del", {"id": "e2"}),
    ("nbd-server-add", {"device": "nope"}),
    ("nbd-server-add", {"device": "ro", "writable": True}),
    ("nbd-server-add", {"device": "ro"}),
    ("query-block-exports", {}),
    ("nbd-server-remove", {"name": "ro", "mode": "hard"}),
    ("nbd-server-stop", {}),
    ("query-block-exports", {}),
    ("nbd-server-stop", {}),
]


def images() -> None:
    """An overlay with data, zeroes and holes of its own and of its backing file; and one of nothing else."""
    for name in ("s", "a.qcow2", "b.qcow2"):
        Path(name).unlink(missing_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", "b.qcow2", "8M")
    qemu_io("qcow2", "b.qcow2", "write -P 5 0 1M", "write -P 6 7M 1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2")
    qemu_io("qcow2", "a.qcow2", "write -P 7 2M 64k", "write -z 3M 1M", "write -z 7M 64k")


def run(*words: str) -> str:
    """A tool's standard output; its complaint is the failure."""
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=LIMIT, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, (words, done.stdout + done.stderr)
    return done.stdout


def qemu_io(image_format: str, image: str, *commands: str) -> None:
    said = run("qemu-io", "-f", image_format, *(word for line in commands for word in ("-c", line)), image)
    assert "failed" not in said, said


def with_disk(start: Starter, *options: str) -> Program:
    images()
    program = start(*NOTHING, *options)
    file = {"driver": "file", "filename": "a.qcow2"}
    program.qmp.command("blockdev-add", {"driver": "qcow2", "node-name": "a", "file": file})
    null = {"driver": "null-co", "node-name": "ro", "read-only": True, "size": 1 << 20, "read-zeroes": True}
    program.qmp.command("blockdev-add", null)
    return program


def serve(program: Program, **options: Any) -> None:
    program.qmp.command("nbd-server-start", {"addr": ADDRESS})
    program.qmp.command("block-dirty-bitmap-add", {"node": "a", "name": "b0"})
    program.qmp.command("block-export-add", {**EXPORT, **options})


def answers(program: Program, steps: Sequence[Step]) -> list[Any]:
    given: list[Any] = []
    for name, arguments in steps:
        try:
            given.append(program.qmp.command(name, arguments) if arguments else program.qmp.command(name))
        except QmpError as error:
            given.append((error.error_class, str(error)))
    return given


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.differential
@pytest.mark.needs(QEMU)
def test_refusals_are_those_of_qemu(daemon: Starter, reference: Starter) -> None:
    given = []
    for start in (reference, daemon):
        program = with_disk(start)
        given.append(answers(program, REFUSALS))
    for step, theirs, ours in zip(REFUSALS, *given, strict=True):
        assert ours == theirs, step


@pytest.mark.differential
@pytest.mark.needs(QEMU, "nbdinfo", "qemu-img", "qemu-io")
def test_tools_see_what_they_see_of_qemu(daemon: Starter, reference: Starter) -> None:
    """Information, three kinds of maps, data, and what becomes of writes; the image is in order afterwards."""
    seen: list[dict[str, Any]] = []
    for start in (reference, daemon):
        program = with_disk(start)
        bitmaps = {"bitmaps": ["b0"], "allocation-depth": True}
        serve(program, writable=True, description="a disk, for people", **bitmaps)
        told: dict[str, Any] = {"info": json.loads(run("nbdinfo", "--json", URI))}
        told["list"] = json.loads(run("nbdinfo", "--json", "--list", "nbd+unix:///?socket=s"))
        for name in ("base:allocation", "qemu:allocation-depth"):
            told[name] = json.loads(run("nbdinfo", "--json", f"--map={name}", URI))
        told["qemu-img map"] = json.loads(
            run("qemu-img", "map", "--output=json", "--image-opts", MAP_OPTIONS)
        )
        qemu_io(
            *("raw", URI, "read -P 5 0 1M", "read -P 7 2M 64k", "read -P 0 3M 1M", "read -P 0 7M 64k"),
            *("read -P 6 7232k 960k", "write -P 9 5M 128k", "write -P 8 12345 777", "write -z 6M 64k"),
            *(
                "write -f -P 4 6291k 1k",
                "discard 1M 64k",
                "flush",
                "read -P 9 5M 128k",
                "read -P 8 12345 777",
            ),
        )
        told["dirty"] = json.loads(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:b0", URI))
        told["depth"] = json.loads(run("nbdinfo", "--json", "--map=qemu:allocation-depth", URI))
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", URI, "copy.raw")
        program.qmp.command("block-export-del", {"id": "e"})
        assert program.qmp.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "e"}
        program.qmp.command("quit")
        program.wait()
        run("qemu-img", "check", "-q", "a.qcow2")
        run("qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", "copy.raw", "a.qcow2")
        seen.append(told)
    for key, theirs in seen[0].items():
        assert seen[1][key] == theirs, key


@pytest.mark.needs("qemu-io")
def test_a_read_only_export_is_not_written_to(daemon: Starter) -> None:
    program = with_disk(daemon)
    program.qmp.command("nbd-server-start", {"addr": ADDRESS})
    program.qmp.command("block-export-add", EXPORT)
    before = Path("a.qcow2").read_bytes()
    words = ["qemu-io", "-f", "raw", "-c", "write 0 4k", URI]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert "Permission denied" in done.stderr
    assert Path("a.qcow2").read_bytes() == before


def connect() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(LIMIT)
    connection.connect("s")
    return connection


def choose(connection: socket.socket, name: bytes = b"a") -> None:
    """The whole handshake, by EXPORT_NAME."""
    assert connection.recv(18, socket.MSG_WAITALL).startswith(b"NBDMAGICIHAVEOPT")
    connection.sendall(b"\0\0\0\3IHAVEOPT" + (1).to_bytes(4, "big") + len(name).to_bytes(4, "big") + name)
    assert len(connection.recv(10, socket.MSG_WAITALL)) == 10


def test_an_export_in_use_is_removed_by_force_only(daemon: Starter) -> None:
    program = with_disk(daemon)
    serve(program)
    with connect() as client:
        choose(client)
        with pytest.raises(QmpError, match=r"^export 'e' still in use$"):
            program.qmp.command("block-export-del", {"id": "e"})
        program.qmp.command("block-export-del", {"id": "e", "mode": "hard"})
        program.qmp.event("BLOCK_EXPORT_DELETED")
        assert client.recv(1) == b""
    program.qmp.command("blockdev-del", {"node-name": "a"})


def test_who_says_nothing_holds_nobody_up(daemon: Starter) -> None:
    """One connection at a time: the silent one is given up, and then the next is served."""
    program = with_disk(daemon)
    options = {"addr": ADDRESS, "max-connections": 1, "handshake-max-seconds": 1}
    program.qmp.command("nbd-server-start", options)
    program.qmp.command("block-export-add", EXPORT)
    with connect() as silent, connect() as second:
        choose(second)
        assert silent.recv(18, socket.MSG_WAITALL)
        assert silent.recv(1) == b""
    program.qmp.command("nbd-server-stop")


def test_the_server_ends_with_clients(daemon: Starter) -> None:
    program = with_disk(daemon)
    serve(program)
    with connect() as chosen, connect() as silent:
        choose(chosen)
        program.qmp.command("nbd-server-stop")
        assert program.qmp.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "e"}
        assert chosen.recv(1) == b""
        assert silent.recv(19, socket.MSG_WAITALL)[18:] == b""
    assert not Path("s").exists()
    program.qmp.command("nbd-server-start", {"addr": ADDRESS})


@pytest.mark.needs("qemu-img", "openssl")
def test_tls(daemon: Starter, tmp_path: Path) -> None:
    """With the right certificate the disk is read; without, or in the clear, it is not."""
    ca = Authority(tmp_path / "ca")
    pki = ca.issue(ca.issue(tmp_path / "pki", "server"), "client")
    mallory = ca.issue(tmp_path / "mallory", "client", subject="/O=Example/CN=mallory")
    rules = '[{"match":"C=GB,O=Example,CN=alice","policy":"allow"}]'
    program = with_disk(
        daemon,
        *("-object", f"tls-creds-x509,id=tls,dir={pki},endpoint=server"),
        *("-object", f'{{"qom-type":"authz-list","id":"who","rules":{rules}}}'),
    )
    inet = {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        inet["data"]["port"] = port = str(probe.getsockname()[1])  # type: ignore[index]
    program.qmp.command("nbd-server-start", {"addr": inet, "tls-creds": "tls", "tls-authz": "who"})
    program.qmp.command("block-export-add", EXPORT)

    def convert(*credentials: object) -> subprocess.CompletedProcess[str]:
        given = [f"tls-creds-x509,id=c,endpoint=client,sanity-check=off,dir={each}" for each in credentials]
        source = f"driver=nbd,export=a,server.type=inet,server.host=127.0.0.1,server.port={port}"
        source += ",tls-creds=c" if credentials else ""
        objects = [word for each in given for word in ("--object", each)]
        words = ["qemu-img", "convert", *objects, "--image-opts", "-O", "raw", source, "copy.raw"]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT)

    good = convert(pki)
    assert good.returncode == 0, good.stderr
    assert Path("copy.raw").read_bytes()[: 1 << 20] == b"\5" * (1 << 20)
    assert convert().returncode
    assert convert(mallory).returncode
    assert convert(pki).returncode == 0

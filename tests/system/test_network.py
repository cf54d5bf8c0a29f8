"""Linux and its network card: an address, the host both ways, another emulator, a cable pulled out, cards that come and go."""

from __future__ import annotations

import hashlib
import http.server
import os
import random
import socket
import subprocess
import threading
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import shell as shell_guest
from tests.programs import QmpError
from tests.system.embed import Embedded
from tests.system.linux import kernel, ping, run, shell
from tests.system.test_snapshot import move

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

MODERN = ("-global", "virtio-mmio.force-legacy=false")
CARD = "virtio-net-device,netdev=n,id=net0"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def boot(starter: Starter, *options: str) -> Program:
    program = starter(*kernel(*options, guest=shell_guest()), serial=True)
    shell(program)
    run(program, "drivers")
    return program


@contextmanager
def web_server(folder: Path) -> Iterator[int]:
    """The host's web server of a folder; its port."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.needs("tcpdump")
@pytest.mark.parametrize(
    ("slot", "card"),
    [
        ((), CARD),
        (MODERN, CARD),
        (MODERN, f"{CARD},packed=on"),
        (MODERN, f"{CARD},csum=off,guest_csum=off,event_idx=off"),
        (MODERN, f"{CARD},mrg_rxbuf=off,indirect_desc=off"),
        ((), "virtio-net-pci,netdev=n,id=net0"),
    ],
    ids=["legacy", "modern", "packed", "plain", "big", "pci"],
)
def test_the_host_and_the_guest_reach_each_other(
    daemon: Starter, tmp_path: Path, slot: tuple[str, ...], card: str
) -> None:
    port, dump = free_port(), tmp_path / "dump.pcap"
    content = random.Random(0).randbytes(3 << 20)
    (tmp_path / "file").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with web_server(tmp_path) as served:
        program = boot(
            daemon,
            *slot,
            *("-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:80", "-device", card),
            *("-object", f"filter-dump,id=dump,netdev=n,file={dump}"),
        )
        assert run(program, "dhcp")[-1].startswith("udhcpc: lease of 10.0.2.15 obtained from 10.0.2.2")
        ping(program, "10.0.2.2")
        shown = run(program, f"wget -q -O /file http://10.0.2.2:{served}/file && sha256sum /file")
        assert shown == [f"{digest}  /file"]
    run(program, "mkdir /www; mv /file /www; httpd -h /www")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/file", timeout=60) as answer:
        assert answer.read() == content
    [told] = program.qmp.command("query-rx-filter")
    assert told["name"] == "net0"
    assert told["main-mac"] == "52:54:00:12:34:56"
    model = card.partition(",")[0]
    assert program.qmp.command("human-monitor-command", {"command-line": "info network"}).split("\r\n")[
        0
    ] == (f"net0: index=0,type=nic,model={model},macaddr=52:54:00:12:34:56")
    program.qmp.command("object-del", id="dump")
    listing = subprocess.run(
        ["tcpdump", "-nn", "-r", str(dump)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TZ": "UTC"},
    ).stdout
    assert "DHCP, Reply" in listing
    assert f"10.0.2.2.{served} > 10.0.2.15." in listing
    assert "10.0.2.15.80 > 10.0.2.2." in listing
    if "csum=off" in card:
        assert "incorrect" not in listing


@pytest.mark.parametrize("kind", ["stream", "dgram", "socket"])
def test_two_emulators(daemon: Starter, reference: Starter, tmp_path: Path, kind: str) -> None:
    """The other one is Debian's QEMU: both speak the same on the wire."""
    a, b = free_port(), free_port()

    def inet(side: str, port: int) -> str:
        return f"{side}.type=inet,{side}.host=127.0.0.1,{side}.port={port}"

    ends = {
        "stream": (
            f"stream,id=n,server=on,addr.type=unix,addr.path={tmp_path}/s",
            f"stream,id=n,addr.type=unix,addr.path={tmp_path}/s,reconnect-ms=100",
        ),
        "dgram": (
            f"dgram,id=n,{inet('local', a)},{inet('remote', b)}",
            f"dgram,id=n,{inet('local', b)},{inet('remote', a)}",
        ),
        "socket": (f"socket,id=n,listen=127.0.0.1:{a}", f"socket,id=n,connect=127.0.0.1:{a}"),
    }[kind]
    card = "virtio-net-device,netdev=n,mac=52:54:00:00:00:0"
    one = boot(daemon, "-netdev", ends[0], "-device", f"{card}1")
    other = boot(reference, "-netdev", ends[1], "-device", f"{card}2")
    if kind == "stream":
        assert one.qmp.event("NETDEV_STREAM_CONNECTED")["data"]["netdev-id"] == "n"
    for number, guest in enumerate((one, other), 1):
        run(guest, f"ip addr add 10.9.9.{number}/24 dev eth0; ip link set eth0 up")
    ping(one, "10.9.9.2")
    run(other, "mkdir /www; head -c 2000000 /dev/urandom > /www/file; httpd -h /www")
    digest = run(other, "sha256sum < /www/file")
    assert run(one, "wget -q -O - http://10.9.9.2/file | sha256sum") == digest
    if kind == "stream":
        other.terminate()
        assert one.qmp.event("NETDEV_STREAM_DISCONNECTED")["data"] == {"netdev-id": "n"}


@pytest.mark.needs("passt")
def test_passt_at_the_other_end(daemon: Starter, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    command = ["passt", "--foreground", "--quiet", "-F", str(theirs.fileno())]
    if os.geteuid() == 0:
        command += ["--runas", "0"]
    command += ["--address", "10.0.7.15", "--netmask", "24", "--gateway", "10.0.7.2", "--ipv4-only"]
    (tmp_path / "file").write_bytes(b"hello from the host\n")
    with (
        web_server(tmp_path) as served,
        subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL) as passt,
    ):
        theirs.close()
        try:
            os.set_inheritable(ours.fileno(), True)
            program = daemon(
                *kernel(
                    *("-netdev", f"stream,id=n,addr.type=fd,addr.str={ours.fileno()}", "-device", CARD),
                    guest=shell_guest(),
                ),
                serial=True,
                pass_fds=(ours.fileno(),),
            )
            ours.close()
            shell(program)
            run(program, "drivers")
            assert run(program, "dhcp")[-1].startswith("udhcpc: lease of 10.0.7.15")
            assert run(program, f"wget -q -O - http://10.0.7.2:{served}/file") == ["hello from the host"]
        finally:
            passt.terminate()


def test_a_cable_and_a_backend_that_go(daemon: Starter) -> None:
    program = boot(daemon, "-netdev", "user,id=n", "-device", CARD)
    run(program, "dhcp")
    carrier = "cat /sys/class/net/eth0/carrier"
    assert run(program, carrier) == ["1"]
    program.qmp.command("set_link", name="net0", up=False)
    run(program, f"while [ $({carrier}) = 1 ]; do :; done")
    assert "0 packets received" in "".join(run(program, "ping -c 1 -W 1 10.0.2.2"))
    program.qmp.command("set_link", name="net0", up=True)
    run(program, f"while [ $({carrier}) = 0 ]; do :; done")
    ping(program, "10.0.2.2", 1)
    program.qmp.command("announce-self", initial=10, max=20, rounds=3, step=5)
    with pytest.raises(QmpError, match=r"^Duplicate ID 'n'$"):
        program.qmp.command("netdev_add", type="user", id="n")
    program.qmp.command("netdev_del", id="n")
    run(program, f"while [ $({carrier}) = 1 ]; do :; done")
    with pytest.raises(QmpError, match=r"^Device 'n' not found$"):
        program.qmp.command("netdev_del", id="n")
    program.qmp.command("netdev_add", type="user", id="n")


def test_a_machine_goes_on_elsewhere_with_its_address(tmp_path: Path) -> None:
    options = kernel(*MODERN, "-netdev", "user,id=n", "-device", CARD, guest=shell_guest())
    program = Embedded(*options, serial=True)
    try:
        shell(program)
        run(program, "drivers")
        run(program, "dhcp")
        program.qmp.command("stop")
        program, _ = move(program, options, tmp_path / "machine")
        program.qmp.command("cont")
        ping(program, "10.0.2.2")
    finally:
        program.close()

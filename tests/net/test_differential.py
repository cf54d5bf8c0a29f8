"""What qemud says of networks that cannot be, or lead nowhere, and what QEMU says: on the command line and in the monitor for people."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.programs import LIMIT, QEMU, QEMUD

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.differential, pytest.mark.needs(QEMU)]

BOARD = ("-machine", "virt", "-nodefaults", "-display", "none", "-S")
QUIT = b'{"execute": "qmp_capabilities"} {"execute": "quit"}'

WORDS = [
    "-nic user",
    "-nic none",
    "-nic user,model=virtio-net-pci",
    "-nic user,mac=zz",
    "-nic user,mac=01:00:00:00:00:00",
    "-nic foo",
    "-net none",
    "-net nic -net user",
    "-net nic,macaddr=1:2:3:4:5",
    "-net user,id=foo",
    "-net hubport,id=h,hubid=0",
    "-netdev user",
    "-netdev nope,id=n",
    "-netdev user,id=n -netdev user,id=n",
    "-netdev user,id=1x",
    "-netdev user,id=n,foo=1",
    '-netdev {"type":"user","id":"x","hostfwd":[{"str":"tcp::1-:99999"}]}',
    "-netdev tap,id=n,fd=999",
    "-netdev tap,id=n,fd=0,ifname=x",
    "-netdev tap,id=n,fd=0,fds=1",
    "-netdev tap,id=n,fd=0,queues=1",
    "-netdev tap,id=n,fds=999:998",
    "-netdev tap,id=n,fds=0:1,queues=2",
    "-netdev tap,id=n,fds=0:1,script=no",
    "-netdev tap,id=n,fds=0:1",
    "-net tap,queues=2",
    "-net tap,fds=0:1",
    "-netdev user,id=n,queues=2",
    "-netdev user,id=n -device virtio-net-device,netdev=n,mq=maybe",
    "-netdev stream,id=n,addr.type=unix,addr.path=/x,server=on,reconnect-ms=1",
    "-netdev hubport,id=h,hubid=0",
    "-device virtio-net-device",
    "-device virtio-net-device,netdev=x",
    "-device virtio-net-pci,netdev=x",
    "-netdev user,id=n -device virtio-net-device,netdev=n",
    "-netdev user,id=n -device virtio-net-device,netdev=n -device virtio-net-device,netdev=n",
    "-netdev user,id=n -device virtio-net-device,netdev=n,mac=zz",
    "-netdev user,id=n -device virtio-net-device,netdev=n,mac=52:54:00:12:34:5",
    "-netdev user,id=n -device virtio-net-device,netdev=n,speed=-2",
    "-netdev user,id=n -device virtio-net-device,netdev=n,duplex=x",
    "-netdev user,id=n -device virtio-net-device,netdev=n,rx_queue_size=100",
    "-netdev user,id=n -device virtio-net-device,netdev=n,tx_queue_size=100",
    "-netdev user,id=n -device virtio-net-device,netdev=n,csum=maybe",
    "-object filter-dump,id=f,netdev=n,file=/nowhere/x",
    "-netdev stream,id=n",
    "-netdev stream,id=n,foo=1",
    "-netdev dgram,id=n,local.type=unix,local.path=/nowhere/x",
    "-netdev dgram,id=n,local.type=inet,local.host=x,local.port=1",
]

# `stream` and `dgram` can be typed here only: QEMU's monitor for people reads the older syntax alone.
TYPED = [
    "netdev_add none,id=n",
    "netdev_add user,id=n,restrict=bla",
    "netdev_add user,id=n,ipv6-net=fec0::/x",
    "netdev_add user,id=n,ipv6-prefix=x",
    "netdev_add user,id=n,ipv6-prefix=fec0::,ipv6-prefixlen=127",
    "netdev_add user,id=n,ipv6-host=fec1::2",
    "netdev_add user,id=n,ipv4=off,ipv6=off",
    "netdev_add user,id=n,ipv4=on,ipv6-host=fec0::2",
    "netdev_add user,id=n,net=10.0.0.0/99",
    "netdev_add user,id=n,net=10.0.0.0/x",
    "netdev_add user,id=n,net=x",
    "netdev_add user,id=n,host=1.2.3.4",
    "netdev_add user,id=n,dns=10.0.2.2",
    "netdev_add user,id=n,dhcpstart=10.0.2.3",
    "netdev_add user,id=n,dhcpstart=10.0.3.3",
    "netdev_add user,id=n,dns=1.1.1.1,restrict=on",
    "netdev_add user,id=n,domainname=",
    f"netdev_add user,id=n,hostname={'x' * 256}",
    "netdev_add user,id=n,hostfwd=zz",
    "netdev_add user,id=n,hostfwd=sctp::1-:1",
    "netdev_add user,id=n,hostfwd=tcp:1",
    "netdev_add user,id=n,hostfwd=tcp:x:1-:1",
    "netdev_add user,id=n,hostfwd=tcp::1",
    "netdev_add user,id=n,hostfwd=tcp::x-:1",
    "netdev_add user,id=n,hostfwd=tcp::1-1",
    "netdev_add user,id=n,hostfwd=tcp::1-x:1",
    "netdev_add user,id=n,hostfwd=tcp::1-:0",
    "netdev_add user,id=n,guestfwd=foo",
    "netdev_add user,id=n,guestfwd=tcp:10.0.2.2:9-cmd:cat",
    "netdev_add socket,id=n",
    "netdev_add socket,id=n,connect=zz",
    "netdev_add socket,id=n,connect=1.2.3.x:1",
    "netdev_add socket,id=n,udp=1.2.3.4:1",
    "netdev_add socket,id=n,connect=1.2.3.4:1,localaddr=1.2.3.4",
    "netdev_add dgram,id=n",
    "netdev_add hubport,id=h",
    "netdev_add hubport,id=h,hubid=0,netdev=x",
    "netdev_add user,id=n",
    "object_add filter-dump,id=f,netdev=n",
    "object_add filter-dump,id=f,netdev=n,file=/nowhere/x",
    "object_add filter-buffer,id=f,netdev=n",
    "object_add filter-buffer,id=f,netdev=n,interval=0",
    "object_add filter-buffer,id=f,netdev=n,interval=1,status=x",
    "object_add filter-buffer,id=f,netdev=n,interval=1,position=x",
    "object_add filter-buffer,id=f,netdev=n,interval=1,position=id=x",
    "object_add filter-buffer,id=f,netdev=n,interval=1,queue=x",
    "object_add filter-mirror,id=f,netdev=n,outdev=x",
    "object_add filter-redirector,id=f,netdev=n",
    "netdev_add hubport,id=h,hubid=3,netdev=n",
    "info network",
    "object_add filter-buffer,id=g,netdev=n,interval=5,queue=tx",
    "set_link n off",
    "set_link x on",
    "set_link n perhaps",
    "netdev_del x",
    "hostfwd_add tcp::x-:1",
    "hostfwd_add x tcp::x-:1",
    "hostfwd_add h tcp::1-:1",
    "hostfwd_remove tcp::1",
    "hostfwd_remove tcp:1",
    "hostfwd_remove x tcp::1",
    "object_del g",
    "netdev_del h",
    "netdev_del n",
    "hostfwd_add tcp::1-:1",
    "info usernet",
    "info network",
]


def said(program: str, words: str) -> tuple[int, str]:
    """How a program ends, and what it says until then."""
    done = subprocess.run(
        [program, *BOARD, "-qmp", "stdio", *words.split()],
        input=QUIT,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    text = done.stderr.decode().replace(program, "PROGRAM")
    return done.returncode, re.sub(r"#net\d+", "#net", text)


@pytest.mark.parametrize("words", WORDS)
def test_the_same_is_said_of_the_command_line(words: str) -> None:
    assert said(QEMUD, words) == said(QEMU, words)


def test_the_same_is_answered(daemon: Starter, reference: Starter) -> None:
    ours, theirs = daemon(*BOARD), reference(*BOARD)

    def answer(program: Program, line: str) -> str:
        text: str = program.qmp.command("human-monitor-command", {"command-line": line})
        return text

    for line in TYPED:
        assert (line, answer(ours, line)) == (line, answer(theirs, line))
        if line.startswith("netdev_add") and "," in line.partition("id=n")[2]:
            for program in (ours, theirs):
                answer(program, "netdev_del n")

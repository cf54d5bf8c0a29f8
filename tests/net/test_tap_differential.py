"""A card with several pairs of queues in Debian's QEMU and in qemud: what is offered, what the function looks like, what is told.

Where this process may make no interfaces, the backend has one queue.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.net.test_tap import may_make_interfaces
from tests.programs import QEMU, QmpError

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.differential, pytest.mark.needs(QEMU)]

BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-nodefaults")
CARDS = (
    "virtio-net-device,netdev=t,id=net0",
    "virtio-net-device,netdev=t,id=net0,mq=on",
    "virtio-net-pci,netdev=t,id=net0,mq=on",
    "virtio-net-pci,netdev=t,id=net0",
    "virtio-net-pci,netdev=t,mq=on,vectors=3,ctrl_vq=off",
    "virtio-net-pci-non-transitional,netdev=t,mq=on,host_mtu=1400",
)
WITHOUT_USO = "host_uso=off,guest_uso4=off,guest_uso6=off"
FUNCTION = 0x3000_8000
DEVICE = re.compile(r"ifname=\w+")


def ask(program: Program, command: str, **arguments: Any) -> Any:
    try:
        answer = program.qmp.command(command, arguments)
    except QmpError as error:
        return f"{error.error_class}: {error}"
    return DEVICE.sub("ifname=", answer) if isinstance(answer, str) else answer


def hmp(program: Program, line: str) -> Any:
    return ask(program, "human-monitor-command", **{"command-line": line})


@pytest.mark.parametrize("card", CARDS)
def test_the_same_card(daemon: Starter, reference: Starter, card: str) -> None:
    has_queues = may_make_interfaces()
    backend = "tap,id=t,queues=3,script=no,downscript=no" if has_queues else "user,id=t"
    more = "" if has_queues else ",csum=off,guest_csum=off,gso=off"
    ours = daemon(*BOARD, "-netdev", backend, "-device", card + more)
    unwanted = f",{WITHOUT_USO}" + (",romfile=" if "pci" in card else "")
    theirs = reference(*BOARD, "-netdev", backend, "-device", card + more + unwanted)

    def same(command: str, **arguments: Any) -> Any:
        answer = ask(ours, command, **arguments)
        assert (command, arguments, answer) == (command, arguments, ask(theirs, command, **arguments))
        return answer

    def same_line(line: str) -> str:
        answer: str = hmp(ours, line)
        assert (line, answer) == (line, hmp(theirs, line))
        return answer

    [info] = same("x-query-virtio")
    status = same("x-query-virtio-status", path=info["path"])
    assert status["num-vqs"] == 3
    for queue in range(5):
        same("x-query-virtio-queue-status", path=info["path"], queue=queue)
    if "pci" in card:
        same_line(f"xp /64xw {FUNCTION:#x}")
    if has_queues:
        assert same_line("info network").count("index=2") == 2
    for name in ("net0", "t"):
        same("set_link", name=name, up=False)
        same("set_link", name=name, up=True)
    if has_queues:
        same_line("object_add filter-buffer,id=f,netdev=t,interval=5")
    same("set_link", name="x", up=False)
    same("query-rx-filter", name="t")
    same("netdev_del", id="t")
    same("netdev_del", id="t")

"""Task management of the SCSI host adapter: commands are taken back, devices reset; see `scsi.py`.

The driver is answered when nobody uses the memory of the commands any more.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.6.6.2; order of the checks: QEMU 10.0, hw/scsi/virtio-scsi.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.hw.scsi.request import Outcome
from qemud.qom.device import reset_tree

if TYPE_CHECKING:
    from qemud.hw.scsi.bus import ScsiDevice
    from qemud.hw.scsi.request import Request
    from qemud.hw.virtio.queue import Element, VirtQueue
    from qemud.hw.virtio.scsi import VirtioScsi
    from qemud.machine.dma import Segment

# Responses
OK, OVERRUN, ABORTED, BAD_TARGET, RESET = range(5)
FAILURE = 9
FUNCTION_SUCCEEDED, FUNCTION_REJECTED, INCORRECT_LUN = 10, 11, 12

# Tasks
ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET = range(4)
I_T_NEXUS_RESET, LOGICAL_UNIT_RESET, QUERY_TASK, QUERY_TASK_SET = range(4, 8)


def unit_number(address: bytes) -> int:
    """The logical unit that an address means."""
    return (address[2] << 8 | address[3]) & 0x3FFF


class Task:
    """What the driver wants to become of commands that it has sent; it is answered when that is so."""

    def __init__(self, adapter: VirtioScsi, queue: VirtQueue, element: Element, where: list[Segment]) -> None:
        self._adapter = adapter
        self._epoch = adapter.dma.epoch
        self._queue = queue
        self._element = element
        self._where = where
        self._answer = OK
        self._waiting = 1

    def run(self, subtype: int, address: bytes, tag: int) -> None:
        """Begin."""
        self._respond_after(self._response(subtype, address, tag))

    def _response(self, subtype: int, address: bytes, tag: int) -> int:
        adapter = self._adapter
        if subtype == I_T_NEXUS_RESET:
            for unit in adapter.scsi_bus.units():
                if unit.realized and unit.target == address[1]:
                    self._reset(unit)
            return OK
        if subtype == CLEAR_ACA or subtype > QUERY_TASK_SET:
            return FUNCTION_REJECTED
        unit_or_none = adapter.find_unit(address)
        if unit_or_none is None:
            return BAD_TARGET
        unit = unit_or_none
        if unit.lun != unit_number(address):
            return INCORRECT_LUN
        if subtype == LOGICAL_UNIT_RESET:
            self._reset(unit)
            return OK
        one = subtype in {ABORT_TASK, QUERY_TASK}
        meant = [request for request in unit.requests if not one or request.tag == tag]
        if subtype in {QUERY_TASK, QUERY_TASK_SET}:
            return FUNCTION_SUCCEEDED if meant else OK
        self._wait_for(meant)
        unit.cancel(meant, Outcome.ABORTED)
        return OK

    def _reset(self, unit: ScsiDevice) -> None:
        self._wait_for(list(unit.requests))
        reset_tree(unit)

    def _wait_for(self, requests: list[Request]) -> None:
        for request in requests:
            self._waiting += 1
            request.on_end.append(self._one_less)

    def _respond_after(self, response: int) -> None:
        self._answer = response
        self._one_less()

    def _one_less(self) -> None:
        self._waiting -= 1
        adapter = self._adapter
        if not self._waiting and self._epoch == adapter.dma.epoch:
            adapter.attempt(
                adapter.give_back, self._queue, self._element, self._where, bytes((self._answer,)), 1
            )

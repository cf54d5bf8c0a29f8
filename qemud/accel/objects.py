"""Accelerators as QOM types: how a client learns which ones there are.

libvirt, for one, takes a program for an emulator when `qom-list-types` has `tcg-accel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.accel import TcgAccelOptions
from qemud.accel import create_vcpu
from qemud.qom.object import Object

if TYPE_CHECKING:
    from qemud.machine.memory import AddressSpace
    from qemud.machine.vcpu import Vcpu


class Accel(Object, type_name="accel", abstract=True):
    """Any accelerator."""


class TcgAccel(Accel, type_name="tcg-accel", options=TcgAccelOptions):
    """The translator, by its QEMU name: the Unicorn engine."""

    def create_vcpu(self, space: AddressSpace, index: int = 0) -> Vcpu:
        """A hart over this memory, as `qemud.accel.create_vcpu` makes it."""
        return create_vcpu(space, index)

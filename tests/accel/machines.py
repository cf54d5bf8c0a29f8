"""A bare machine for tests: RAM, a register block that records, and a hart, in the calling thread."""

from __future__ import annotations

import time
from typing import Any

from qemud.accel.unicorn.riscv import RiscvVcpu
from qemud.machine.memory import AddressSpace, MemoryFault, RamBlock
from qemud.machine.vcpu import Exit

RAM = 0x8000_0000
RAM_SIZE = 1 << 20
DEVICE = 0x1000_0000
DEVICE_SIZE = 0x100
PATIENCE_NS = 120_000_000_000


class Recorder:
    """Registers that note every access; `on_write`, when set, is called with it; 0xF0 refuses, 0xF8 breaks."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.value = 0x8877_6655_4433_2211
        self.on_write: Any = None
        self.on_read: Any = None

    def read(self, offset: int, size: int) -> int:
        self.log.append(("read", offset, size))
        if offset == 0xF0:
            raise MemoryFault(DEVICE + offset, write=False)
        if offset == 0xF8:
            raise ZeroDivisionError("a defect of the device")
        if self.on_read is not None:
            self.on_read(offset, size)
        return self.value

    def write(self, offset: int, value: int, size: int) -> None:
        self.log.append(("write", offset, value, size))
        if offset == 0xF0:
            raise MemoryFault(DEVICE + offset, write=True)
        if offset == 0xF8:
            raise ZeroDivisionError("a defect of the device")
        if self.on_write is not None:
            self.on_write(offset, value, size)


class Bare:
    """RAM at `RAM`, a `Recorder` at `DEVICE`, a hart."""

    def __init__(self) -> None:
        self.space = AddressSpace()
        self.ram = RamBlock("ram", RAM_SIZE)
        self.space.add_ram("ram", RAM, self.ram)
        self.device = Recorder()
        self.space.add_mmio("device", DEVICE, DEVICE_SIZE, self.device)
        self.failures: list[BaseException] = []
        self.vcpu = self._make_vcpu()
        self._limit = 0
        self._be_patient()
        self._watch()

    def _make_vcpu(self) -> RiscvVcpu:
        return RiscvVcpu(self.space)

    def _watch(self) -> None:
        def failed(error: BaseException) -> None:
            self.failures.append(error)
            self.vcpu.leave()

        self.vcpu.on_failure = failed
        self.vcpu.on_attention = self._too_long
        self.vcpu.set_clock(0, 0)

    def _be_patient(self) -> None:
        self._limit = time.monotonic_ns() + PATIENCE_NS
        self.vcpu.set_deadline(self._limit)

    def _too_long(self) -> None:
        """Kicked by the deadline that `run` sets: a guest that does not end must not hang the tests."""
        if time.monotonic_ns() >= self._limit:
            self.failures.append(TimeoutError("the guest does not come to an end"))
            self.vcpu.leave()

    def start(self, code: bytes, at: int = RAM, **arguments: int) -> None:
        """Put code into memory and the hart at its beginning."""
        self.space.write_physical(at, code)
        self.vcpu.reset(pc=at, **arguments)

    def run(self, code: bytes, at: int = RAM, **arguments: int) -> Exit:
        """The same, and run it until it waits."""
        self.start(code, at, **arguments)
        self._be_patient()
        return self.vcpu.run()

    def run_until_halt(self) -> None:
        """Run on until the guest waits with nothing pending."""
        self._be_patient()
        while not self.vcpu.halted:
            assert self.vcpu.run() is not Exit.FAILED, self.vcpu.failure
            assert not self.failures

    def u64(self, address: int) -> int:
        return int.from_bytes(self.space.read_physical(address, 8), "little")

    def close(self) -> None:
        self.vcpu.close()
        self.ram.close()

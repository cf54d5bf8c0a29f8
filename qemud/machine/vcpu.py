"""What the machine knows of a processor: the protocol between boards, the machine thread and an accelerator.

A `Vcpu` is made by an accelerator (`qemud.accel.create_vcpu`) and belongs to the machine thread; only `kick` may be called
from elsewhere.  It sees memory as a listener of the machine's `AddressSpace`.

    vcpu = create_vcpu(space, index=0)            # imports the engine; raises GenericError where it cannot run
    vcpu.reset(pc=0x8000_0000, a0=0, a1=dtb)      # M-mode; `mode=1` for a kernel that is started in S-mode
    vcpu.set_interrupt(7, 1)                      # mip.MTIP
    thread.attach(vcpu)                           # the machine thread runs it from now on

When things happen:

- `run` returns when the guest waits for an interrupt (`Exit.HALTED`), after `leave` (`Exit.LEFT`) or when the engine cannot go on
  (`Exit.FAILED`, with the reason in `failure`).
- `kick` makes `on_attention` be called in the machine thread, between two blocks of guest code, without leaving `run`: this is
  where the mailbox is emptied and timers fire.  All registers are exact there, and everything is allowed.
- `on_ecall` is called for an ecall in S-mode, when it is set (built-in firmware).  pc is behind the ecall already; True means
  done, False lets the guest's own M-mode have it.
- `leave` may be called from all of these and from a device's register callback.  No further block is begun; behind a plain
  store to a register no further instruction either.
- In a device's register callback pc is not exact, and `reset` and `load` are refused.
- An exception in one of these callbacks ends in `on_failure`; it never passes through the engine.

Time: `set_clock` gives the guest's clock for `rdtime`; at the host time given to `set_deadline` the vCPU kicks itself.  One that
counts `instructions` takes the guest's time from these, and also kicks itself at exactly that one given to `set_limit`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Exit(enum.Enum):
    """Why `Vcpu.run` returned."""

    HALTED = "halted"
    LEFT = "left"
    FAILED = "failed"


class Vcpu(Protocol):
    """One processor; see the module.  Register numbers and bits are those of the RISC-V manuals."""

    index: int
    """Its number in the machine, which is also the hart's."""
    failure: str
    """After `Exit.FAILED`: one line on what the engine could not do."""
    on_attention: Callable[[], None]
    on_failure: Callable[[BaseException], None]

    @property
    def on_ecall(self) -> Callable[[], bool] | None:
        """Who answers ecalls of S-mode; None when the guest has firmware of its own."""

    @on_ecall.setter
    def on_ecall(self, handler: Callable[[], bool] | None) -> None: ...

    @property
    def halted(self) -> bool:
        """Whether it waits (WFI) and no enabled interrupt is pending."""

    def run(self) -> Exit:
        """Run guest code; see the module."""

    def leave(self) -> None:
        """Let `run` return soon; no effect on a vCPU that does not run."""

    def kick(self) -> None:
        """Have `on_attention` called soon, if it runs; any thread."""

    def close(self) -> None:
        """Give the engine back; nothing else may be called afterwards."""

    # Interrupts and time.

    def set_interrupt(self, bit: int, level: int) -> None:
        """Set or clear a bit of mip (3 MSIP, 5 STIP, 7 MTIP, 9 SEIP, 11 MEIP, 1 SSIP)."""

    instructions: int
    """How many have run, if they are counted; exact between blocks, and in a device's register callback with the one that it is for."""

    def set_limit(self, count: int | None) -> None:
        """Kick the vCPU before it runs that instruction (0 is the first), if they are counted; None for never."""

    def set_clock(self, offset: int, frozen: int | None) -> None:
        """The guest's time is host monotonic time, or that of counted instructions, + `offset` (ns), or stands at `frozen`."""

    def set_deadline(self, when: int | None) -> None:
        """Kick the vCPU once host monotonic time is `when` (ns); None for never."""

    # State.

    pc: int

    @property
    def mode(self) -> int:
        """The privilege mode it is in: 0 U, 1 S, 3 M."""

    def gpr(self, n: int) -> int:
        """x0 to x31, unsigned."""

    def set_gpr(self, n: int, value: int) -> None:
        """Write x1 to x31; the value is cut to 64 bits, x0 stays 0."""

    def csr(self, number: int) -> int:
        """A control and status register, whatever the privilege mode. Raises GenericError when there is none."""

    def set_csr(self, number: int, value: int) -> None:
        """Write one, with the register's own rules. Raises GenericError when there is none."""

    def reset(self, *, pc: int, a0: int = 0, a1: int = 0, a2: int = 0, mode: int = 3) -> None:
        """The state after power-on, running from `pc` in privilege `mode` (3 M, 1 S) with those arguments."""

    def save(self) -> Any:
        """Its whole state, as the accelerator-independent struct of its architecture (`RiscvCpuState`)."""

    def check(self, state: Any) -> None:
        """Raise GenericError for a saved state that no processor can be in."""

    def load(self, state: Any) -> None:
        """Take over a saved state. Raises GenericError for one that no processor can be in."""

    def halt(self) -> None:
        """Wait for an interrupt from here on, as after a WFI; for built-in firmware, in `on_ecall` or while stopped."""

    def flush_tlb(self) -> None:
        """Forget all translations of addresses."""

    def translate(self, address: int) -> int | None:
        """The physical address of a virtual one, as the guest's current mode sees it; None where nothing is mapped."""

    def invalidate(self, address: int, size: int) -> None:
        """Drop what was translated from physical memory there: somebody else wrote to it."""

"""`-icount`: what it asks for, and the machine's time by it.

    options = read("3,sleep=off", warn)                 # an `IcountOptions`
    vcpu = create_vcpu(space, shift=shift_of(options))
    start(vm, options)                                  # machine thread, once the processor is attached

Source of the texts and of what is merged: QEMU 10.0, accel/tcg/icount-common.c and system/vl.c.  `align` and `rr` are not here: this engine does
neither hold a guest back to the host's time, nor record what comes from outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.runtime import qemuopts, scalars
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.icount import IcountOptions
    from qemud.machine.vm import VirtualMachine

MAX_SHIFT = 10
"""An instruction takes 1024 ns at most."""


def read(text: str, warn: Callable[[str], None]) -> IcountOptions:
    """The argument of one `-icount`; several are merged by who calls. Raises GenericError."""
    from qemud._generated.types.icount import IcountOptions

    values = qemuopts.parse(text, implied="shift", warn=warn)
    options = IcountOptions(**qemuopts.convert(values, {"shift": qemuopts.text, "sleep": qemuopts.boolean}))
    shift_of(options)
    return options


def shift_of(options: IcountOptions | None) -> int | None:
    """The power of two of nanoseconds that an instruction takes, or None where none are counted. Raises GenericError."""
    if options is None or options.shift is None:
        return None
    text = options.shift
    if text == "auto":
        raise GenericError(f"icount: shift=auto is not supported, expected 0 to {MAX_SHIFT}")
    try:
        shift = scalars.parse_uint64(text)
    except ValueError:
        shift = -1
    if not 0 <= shift <= MAX_SHIFT:
        raise GenericError("icount: Invalid shift value")
    return shift


def start(vm: VirtualMachine, options: IcountOptions) -> None:
    """Let the processor's instructions be the machine's time, if they are counted.  Machine thread."""
    shift = shift_of(options)
    if shift is None:
        return
    from qemud.machine.icount import InstructionTime

    vm.instruction_time = InstructionTime(vm.clock, vm.vcpus[0], shift, sleep=options.sleep is not False)
    vm.executor.count_instructions(vm.instruction_time)

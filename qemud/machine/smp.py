"""How many processors, and how they are arranged: `-smp`, worked out and checked.

    topology = smp_topology(SMPConfiguration(cpus=1), "virt-10.0", max_cpus=1)
    topology.cpus, topology.sockets, topology.cores, topology.threads

What is not given follows from what is: cores first, then sockets, then threads.

Source: QEMU 10.0, hw/core/machine-smp.c, for the order and the error texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.machine import SMPConfiguration

_MASK = 0xFFFF_FFFF


class Topology(NamedTuple):
    """Numbers of processors: at the start, at most, and at each level."""

    cpus: int
    max_cpus: int
    sockets: int
    cores: int
    threads: int


def smp_topology(given: SMPConfiguration, machine: str, max_cpus: int) -> Topology:
    """Complete and check what was given. Raises GenericError with QEMU's texts."""
    asked = [given.cpus, given.maxcpus, given.sockets, given.cores, given.threads]
    if 0 in asked:
        raise GenericError("Invalid CPU topology: CPU topology parameters must be greater than zero")
    # QEMU counts in 32 unsigned bits, and tells of them in signed ones.
    cpus, maximum, sockets, cores, threads = ((number or 0) & _MASK for number in asked)
    if not cpus and not maximum:
        sockets, cores, threads = sockets or 1, cores or 1, threads or 1
    else:
        maximum = maximum or cpus
        if not cores:
            sockets, threads = sockets or 1, threads or 1
            cores = maximum // (sockets * threads)
        elif not sockets:
            threads = threads or 1
            sockets = maximum // (cores * threads)
        threads = threads or maximum // (sockets * cores)
    total = sockets * cores * threads
    maximum = maximum or total
    cpus = cpus or maximum
    hierarchy = f"sockets ({sockets}) * cores ({cores}) * threads ({threads})"
    if total != maximum:
        raise GenericError(
            "Invalid CPU topology: product of the hierarchy must match maxcpus: "
            f"{hierarchy} != maxcpus ({maximum})"
        )
    if maximum < cpus:
        raise GenericError(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: "
            f"{hierarchy} == maxcpus ({maximum}) < smp_cpus ({cpus})"
        )
    if maximum > max_cpus:
        raise GenericError(
            f"Invalid SMP CPUs {_signed(maximum)}. The max CPUs supported by machine '{machine}' is {max_cpus}"
        )
    return Topology(cpus, maximum, sockets, cores, threads)


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number

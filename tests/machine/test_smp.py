"""`-smp`: QEMU's arithmetic and QEMU's words."""

from __future__ import annotations

import pytest

from qemud._generated.types.machine import SMPConfiguration
from qemud.machine.smp import Topology, smp_topology
from qemud.qapi.runtime.errors import GenericError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (SMPConfiguration(), Topology(1, 1, 1, 1, 1)),
        (SMPConfiguration(cpus=1), Topology(1, 1, 1, 1, 1)),
        (SMPConfiguration(cpus=1, sockets=1, cores=1, threads=1), Topology(1, 1, 1, 1, 1)),
        (SMPConfiguration(cpus=4), Topology(4, 4, 1, 4, 1)),
        (SMPConfiguration(cpus=4, cores=2), Topology(4, 4, 2, 2, 1)),
        (SMPConfiguration(sockets=2, threads=2), Topology(4, 4, 2, 1, 2)),
        (SMPConfiguration(cpus=2, maxcpus=8, cores=4, sockets=2), Topology(2, 8, 2, 4, 1)),
    ],
)
def test_what_is_not_given_follows(given, expected):
    assert smp_topology(given, "virt", 512) == expected


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            SMPConfiguration(cpus=2),
            "Invalid SMP CPUs 2. The max CPUs supported by machine 'virt' is 1",
        ),
        (SMPConfiguration(cpus=-1), "Invalid SMP CPUs -1. The max CPUs supported by machine 'virt' is 1"),
        (
            SMPConfiguration(cpus=0),
            "Invalid CPU topology: CPU topology parameters must be greater than zero",
        ),
        (
            SMPConfiguration(cpus=2, cores=2, threads=2),
            (
                "Invalid CPU topology: product of the hierarchy must match maxcpus: "
                "sockets (0) * cores (2) * threads (2) != maxcpus (2)"
            ),
        ),
        (
            SMPConfiguration(cpus=4, maxcpus=2),
            (
                "Invalid CPU topology: maxcpus must be equal to or greater than smp: "
                "sockets (1) * cores (2) * threads (1) == maxcpus (2) < smp_cpus (4)"
            ),
        ),
    ],
)
def test_what_cannot_be_is_refused_in_qemus_words(given, text):
    with pytest.raises(GenericError) as caught:
        smp_topology(given, "virt", 1)
    assert str(caught.value) == text

"""Which virtio devices there are behind PCI, as data: three types for each.

`virtio-rng-pci` leaves it to the user which drivers can use it, `-transitional` is for all of them, `-non-transitional` for those of the
standard only.  Ids and class codes: Virtual I/O Device (VIRTIO) Version 1.2, section 4.1.2, and QEMU 10.0, include/hw/pci/pci.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qemud.qom.types import TypeEntry

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(NamedTuple):
    """A virtio device behind PCI.

    `name` is as in ``virtio-rng-pci``; its options are the structs ``{struct}PciOptions`` and ``{struct}PciFixedOptions``.
    `more_vectors` is how many interrupt messages it has use for besides one a queue; `vectors` is how many whatever its queues.
    `names_bus` says that the bus which it has for other devices is named after the function.
    """

    name: str
    struct: str
    class_code: int
    transitional_id: int
    vectors: int = 0
    more_vectors: int = 1
    links: tuple[tuple[str, str], ...] = ()
    category: str = "Misc"
    names_bus: bool = False

    @property
    def class_name(self) -> str:
        """What the classes' names begin with."""
        return f"{self.struct}Pci"


KINDS = (
    Kind("virtio-balloon", "VirtioBalloon", 0x00FF, 0x1002, vectors=2, links=(("iothread", "iothread"),)),
    Kind("virtio-blk", "VirtioBlk", 0x0100, 0x1001, links=(("iothread", "iothread"),), category="Storage"),
    Kind("virtio-net", "VirtioNet", 0x0200, 0x1000, category="Network"),
    Kind("virtio-rng", "VirtioRng", 0x00FF, 0x1005, vectors=2, links=(("rng", "rng-backend"),)),
    Kind(
        "virtio-scsi",
        "VirtioScsi",
        0x0100,
        0x1004,
        links=(("iothread", "iothread"),),
        category="Storage",
        names_bus=True,
    ),
    Kind("virtio-serial", "VirtioSerial", 0x0780, 0x1003, category="Input", names_bus=True),
)

VARIANTS = (
    ("", "Options"),
    ("Transitional", "FixedOptions"),
    ("NonTransitional", "FixedOptions"),
)
"""What the classes' names end with, and the names of their structs."""

SUFFIXES = {"": "", "Transitional": "-transitional", "NonTransitional": "-non-transitional"}
"""The same for the types' names."""

_ROOM = "qemud.hw.virtio.pci"


def entries() -> Iterator[TypeEntry]:
    """The types."""
    yield TypeEntry("virtio-pci-bus", "virtio-bus", f"{_ROOM}:VirtioPciBus")
    yield TypeEntry(
        "virtio-pci", "pci-device", f"{_ROOM}:VirtioPci", abstract=True, options="VirtioPciOptions"
    )
    for kind in KINDS:
        base = f"{kind.name}-pci-base"
        yield TypeEntry(base, "virtio-pci", f"{_ROOM}:{kind.class_name}Base", abstract=True)
        for ending, options in VARIANTS:
            yield TypeEntry(
                f"{kind.name}-pci{SUFFIXES[ending]}",
                base,
                f"{_ROOM}:{kind.class_name}{ending}",
                options=f"{kind.class_name}{options}",
                links=kind.links,
                user_creatable=True,
                category=kind.category,
                alias="" if ending else kind.name,
            )

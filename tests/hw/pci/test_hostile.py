"""A guest that writes anything anywhere: nothing crashes, and nothing but its own PCI devices hears of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.types.pci import PcieRootPortOptions
from qemud.hw.pci.root_port import PcieRootPort
from qemud.hw.virtio import pci
from qemud.machine.memory import MemoryFault
from qemud.qom.state import load_tree, save_tree
from tests.hw.pci.rig import ECAM, HIGH, LOW, PIO, Rig
from tests.hw.virtio.driver import BASE, RAM

if TYPE_CHECKING:
    from qemud.hw.pci.device import PciDevice

CLASSES: dict[str, Any] = vars(pci)
FUNCTIONS = (0x00_00, 0x00_08, 0x00_10, 0x00_18, 0x01_00, 0x02_00, 0xFF_FF)
"""Bus and devfn of what there is, and of what there may be."""

addresses = st.one_of(
    st.sampled_from((0, LOW, HIGH, BASE, ECAM, PIO, 0xFFFF_F000, 0x7FFF_F000)),
    st.integers(0, (1 << 32) - 1),
)
registers = st.one_of(
    st.tuples(
        st.sampled_from(FUNCTIONS),
        st.one_of(
            st.sampled_from((4, 0x10, 0x14, 0x18, 0x20, 0x24, 0x2C, 0x3E, 0x6C, 0x6E)), st.integers(0, 0xFFF)
        ),
    ).map(lambda pair: ECAM | pair[0] << 12 | pair[1]),
    st.sampled_from((LOW, HIGH, PIO)).flatmap(lambda base: st.integers(base, base + 0x8000)),
    st.integers(PIO, PIO + 0xFFFF),
)
values = st.one_of(addresses, st.sampled_from((0, 1, 3, 7, 15, 0xFFFF, 0xFFFF_FFFF, 0x01_01_00)))
steps = st.lists(
    st.tuples(registers, values, st.sampled_from((1, 2, 4, 8)), st.booleans()), min_size=1, max_size=120
)


def make() -> Rig:
    rig = Rig()
    port = rig.add("rp0", PcieRootPort(PcieRootPortOptions()))
    rig.add("r0", CLASSES["VirtioRngPci"]())
    rig.add("r1", CLASSES["VirtioRngPciTransitional"](), addr="3")
    rig.add("r2", CLASSES["VirtioRngPciNonTransitional"](), port.secondary)
    return rig


def functions(rig: Rig) -> list[PciDevice]:
    return [rig.devices.children[name] for name in ("rp0", "r0", "r1", "r2")]  # type: ignore[misc]


@settings(max_examples=50)
@given(steps)
def test_any_store_and_load(sequence: list[tuple[int, int, int, bool]]) -> None:
    rig = make()
    fixed = [(function, bytes(function.config.data)) for function in functions(rig)]
    for address, value, size, store in sequence:
        section = rig.vm.memory.find(address)
        assert section is not None
        fits = 1 << min(size, section.end - address).bit_length() - 1
        with contextlib.suppress(MemoryFault):
            if store:
                section.cpu_write(address - section.base, value & (1 << 8 * fits) - 1, fits)
            else:
                assert 0 <= section.cpu_read(address - section.base, fits) < 1 << 8 * fits
    for function, before in fixed:
        config = function.config
        for offset in range(config.size):
            free = config.write_mask[offset] | config.clear_mask[offset] | ~config.kept[offset]
            assert (config.data[offset] ^ before[offset]) & ~free & 0xFF == 0, hex(offset)
    if not any(function.bus_master for function in functions(rig)):
        assert rig.vm.memory.read_physical(BASE, RAM) == bytes(RAM)
    saved = save_tree(rig.root)
    rig.reset()
    for function, before in fixed:
        assert bytes(function.config.data) == before
    load_tree(rig.root, saved)
    assert save_tree(rig.root) == saved


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), addresses, st.integers(0, 7)), min_size=1, max_size=12
    )
)
def test_who_answers_is_who_is_mapped_there(places: list[tuple[int, bool, int, int]]) -> None:
    """Against a model: of all functions on the root bus the first one whose register covers the address."""
    rig = make()
    names = functions(rig)[1:3]
    for index, wide, low, high in places:
        function = names[index % 2]
        base = rig.config(function)
        if wide:
            rig.write(base + 0x20, low)
            rig.write(base + 0x24, high)
        else:
            rig.write(base + 0x14, low)
        rig.write(base + 4, 7, 2)
    probes = {at + step for function in names for _, at in function.mapped() for step in (0, 0x800, 0x3FFC)}
    for address in probes:
        if not (LOW <= address < LOW + (1 << 30) or HIGH <= address < HIGH + (1 << 34)):
            continue
        expected = next(
            (
                (bar.ops, address - at)
                for function in names
                for bar, at in function.mapped()
                if not bar.io and at <= address < at + bar.size
            ),
            None,
        )
        window = rig.vm.memory.find(address)
        assert window is not None
        route = window.ops._find(address, 4)  # type: ignore[union-attr]
        assert (None if route is None else (route.ops, address - route.origin)) == expected

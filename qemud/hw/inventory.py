"""The commands of `inventory.json`: what the machine is made of, in more detail.

Source of texts and of the layout of what is for people to read: QEMU 10.0, hw/core/machine-qmp-cmds.c, system/physmem.c,
hw/core/loader.c and target/riscv/riscv-qmp-cmds.c.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, NamedTuple

from qemud._generated.commands.inventory import InventoryCommands
from qemud._generated.types.inventory import (
    CpuModelExpansionInfo,
    CpuModelExpansionType,
    CpuModelInfo,
    HumanReadableText,
    Memdev,
)
from qemud.hw.boards import CPU_MODELS
from qemud.machine.memory import SectionKind
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.fields import UNSET
from qemud.qom.types import types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qemud._generated.types.inventory import HotpluggableCPU, MemoryDeviceInfo
    from qemud.hw.core.generic_loader import GenericLoader
    from qemud.hw.intc.plic import SifivePlic
    from qemud.hw.riscv.virt import BootLoader
    from qemud.machine.memory import AddressSpace, RamBlock
    from qemud.machine.services import Services


class InventoryHandlers(InventoryCommands):
    """Handlers of `inventory.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_memdev(self) -> list[Memdev]:
        """`query-memdev`."""
        return [
            Memdev(
                id=name,
                size=options.size,
                merge=options.merge,
                dump=options.dump,
                prealloc=options.prealloc,
                share=options.share,
                host_nodes=options.host_nodes,
                policy=options.policy,
            )
            for name, options in self._memory_backends()
        ]

    async def query_memory_devices(self) -> list[MemoryDeviceInfo]:
        """`query-memory-devices`."""
        return []  # no machine has slots for them

    async def query_hotpluggable_cpus(self) -> list[HotpluggableCPU]:
        """`query-hotpluggable-cpus`."""
        raise GenericError("machine does not support hot-plugging CPUs")

    async def query_cpu_model_expansion(
        self,
        *,
        type: CpuModelExpansionType,  # noqa: A002 - wire name
        model: CpuModelInfo,
    ) -> CpuModelExpansionInfo:
        """`query-cpu-model-expansion`."""
        if type is not CpuModelExpansionType.FULL:
            raise GenericError("The requested expansion type is not supported")
        if model.name not in CPU_MODELS:
            raise GenericError(f"The CPU type '{model.name}' is not a known RISC-V CPU type")
        props = _cpu_properties(f"{model.name}-riscv-cpu", model.props)
        return CpuModelExpansionInfo(model=CpuModelInfo(name=model.name, props=props or UNSET))

    async def system_wakeup(self) -> None:
        """`system_wakeup`."""
        raise GenericError("wake-up from suspend is not supported by this guest")

    async def inject_nmi(self) -> None:
        """`inject-nmi`."""
        raise GenericError("machine does not provide NMIs")

    async def x_query_irq(self) -> HumanReadableText:
        """`x-query-irq`."""
        return await self._text(_interrupt_counts, self._plics())

    async def x_query_interrupt_controllers(self) -> HumanReadableText:
        """`x-query-interrupt-controllers`."""
        return await self._text(_interrupt_controllers, self._plics())

    async def x_query_numa(self) -> HumanReadableText:
        """`x-query-numa`."""
        return HumanReadableText(human_readable_text="0 nodes\n")

    async def x_query_ramblock(self) -> HumanReadableText:
        """`x-query-ramblock`."""
        return await self._text(_ram_blocks, self._services.vm.memory)

    async def x_query_roms(self) -> HumanReadableText:
        """`x-query-roms`."""
        from qemud.hw.core.generic_loader import GenericLoader
        from qemud.hw.riscv.virt import BootLoader

        loaders = [
            node for node in self._services.tree.root.walk() if isinstance(node, BootLoader | GenericLoader)
        ]
        return await self._text(_loaded_parts, self._services.vm.memory, loaders)

    async def _text(self, write: Callable[..., Iterator[str]], *arguments: object) -> HumanReadableText:
        """The lines of a function that is called on the machine thread."""
        lines = await self._services.vm.mailboxes.call(lambda: list(write(*arguments)))
        return HumanReadableText(human_readable_text="".join(f"{line}\n" for line in lines))

    def _plics(self) -> list[SifivePlic]:
        from qemud.hw.intc.plic import SifivePlic

        return [node for node in self._services.tree.root.walk() if isinstance(node, SifivePlic)]

    def _memory_backends(self) -> Iterator[tuple[str, Any]]:
        for name, child in self._services.tree.objects.children.items():
            if child.is_a("memory-backend"):
                yield name, child.options


def _cpu_properties(type_name: str, given: Any) -> dict[str, Any]:
    """The values of all properties that a CPU of this type can be given.  GenericError: some are given that it has not."""
    values = {each.name: each.default for each in types.properties(type_name) if each.has_default}
    if given is UNSET:
        return values
    if not isinstance(given, dict):
        raise GenericError("Invalid parameter type for 'model.props', expected: object")
    for name, value in given.items():
        if name not in values:
            raise GenericError(f"Property '{type_name}.{name}' not found")
        if not isinstance(value, bool):
            raise GenericError(f"Invalid parameter type for 'model.props.{name}', expected: boolean")
        values[name] = value
    return values


# -- lines, written on the machine thread --------------------------------------------------------------------------------


def _interrupt_counts(plics: list[SifivePlic]) -> Iterator[str]:
    for plic in plics:
        if not plic.counts:
            continue  # QEMU lists no controller that does not count
        yield f"IRQ statistics for {plic.type_name}:"
        for source, count in sorted(plic.counts.items()):
            yield f"{source:2}: {count}"


def _interrupt_controllers(plics: list[SifivePlic]) -> Iterator[str]:
    for plic in plics:
        state = plic.state
        words = len(state.pending)
        yield f"{plic.type_name}: {plic.path}"
        for number, context in enumerate(plic.contexts):
            enabled = _sources(state.enable[number * words : (number + 1) * words])
            yield (
                f"  context {number} (hart {context.hart}, {context.mode}-mode): "
                f"threshold {state.threshold[number]}, enabled: {enabled}"
            )
        for name in ("level", "pending", "claimed"):
            yield f"  {name}: {_sources(getattr(state, name))}"


def _sources(words: list[int]) -> str:
    """The numbers of the bits that are set."""
    numbers = [32 * index + bit for index, word in enumerate(words) for bit in range(32) if word >> bit & 1]
    return " ".join(map(str, numbers)) or "none"


class _Mapped(NamedTuple):
    block: RamBlock
    readonly: bool


def _blocks(memory: AddressSpace) -> list[_Mapped]:
    """Each block that is mapped anywhere, the largest first."""
    found: dict[int, _Mapped] = {}
    for section in memory:
        if section.block is not None:
            readonly = section.kind is SectionKind.ROM
            found.setdefault(id(section.block), _Mapped(section.block, readonly))
    return sorted(found.values(), key=lambda mapped: -mapped.block.size)


def _ram_blocks(memory: AddressSpace) -> Iterator[str]:
    page = f"{mmap.PAGESIZE >> 10} KiB"
    heads = ("Block Name", "PSize", "Offset", "Used", "Total", "HVA", "RO")
    yield "{:>24} {:>8}  {:>18} {:>18} {:>18} {:>18} {:>3}".format(*heads)
    offset = 0
    for block, readonly in _blocks(memory):
        sizes = f"0x{offset:016x} 0x{block.size:016x} 0x{block.size:016x} 0x{block.address:016x}"
        yield f"{block.name:>24} {page:>8}  {sizes} {'ro' if readonly else 'rw':>3}"
        offset += block.size


def _loaded_parts(memory: AddressSpace, loaders: list[BootLoader | GenericLoader]) -> Iterator[str]:
    for address, size, name in sorted(each for loader in loaders for each in loader.contents()):
        section = memory.find(address)
        kind = "rom" if section is not None and section.kind is SectionKind.ROM else "ram"
        yield f'addr={address:016x} size=0x{size:06x} mem={kind} name="{name}"'

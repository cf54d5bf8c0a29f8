"""The commands of `machine.json`: which machines there are, and what the one at hand is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.commands.machine import MachineCommands
from qemud._generated.types.machine import (
    CompatProperty,
    CpuDefinitionInfo,
    CpuInfoFast,
    CpuInstanceProperties,
    CurrentMachineParams,
    KvmInfo,
    MachineInfo,
    MemoryInfo,
    NameInfo,
    SysEmuTarget,
    TargetInfo,
    UuidInfo,
)
from qemud.hw.dump import save_blob, save_physical, save_virtual
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.machine.services import Services


class MachineHandlers(MachineCommands):
    """Handlers of `machine.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_target(self) -> TargetInfo:
        """`query-target`."""
        return TargetInfo(arch=SysEmuTarget(self._services.target))

    async def query_name(self) -> NameInfo:
        """`query-name`."""
        return NameInfo(name=self._services.name)

    async def query_uuid(self) -> UuidInfo:
        """`query-uuid`."""
        return UuidInfo(UUID=self._services.uuid)

    async def query_kvm(self) -> KvmInfo:
        """`query-kvm`."""
        return KvmInfo(enabled=False, present=False)

    async def query_machines(self, *, compat_props: bool = False) -> list[MachineInfo]:
        """`query-machines`."""
        from qemud.hw.boards import BOARDS
        from qemud.hw.versions import overlay_of

        return [
            MachineInfo(
                name=board.name,
                alias=board.alias,
                is_default=board.is_default or None,
                cpu_max=board.max_cpus,
                hotpluggable_cpus=False,
                numa_mem_supported=False,
                deprecated=False,
                default_cpu_type=board.default_cpu_type,
                default_ram_id=board.default_ram_id,
                acpi=False,
                compat_props=[
                    CompatProperty(qom_type=type_name, property=name, value=_text(value))
                    for type_name, name, value in overlay_of(board.name)
                ]
                if compat_props
                else None,
            )
            for board in BOARDS
        ]

    async def query_current_machine(self) -> CurrentMachineParams:
        """`query-current-machine`."""
        return CurrentMachineParams(wakeup_suspend_support=False)

    async def query_cpus_fast(self) -> list[CpuInfoFast]:
        """`query-cpus-fast`."""
        return [
            CpuInfoFast(
                cpu_index=cpu.index,
                qom_path=cpu.path,
                thread_id=self._services.vm.executor.thread_id,
                props=CpuInstanceProperties(core_id=cpu.index),
                target=SysEmuTarget(self._services.target),
            )
            for cpu in self._cpus()
        ]

    async def query_cpu_definitions(self) -> list[CpuDefinitionInfo]:
        """`query-cpu-definitions`."""
        from qemud.hw.boards import CPU_MODELS

        return [
            CpuDefinitionInfo(name=name, static=False, typename=f"{name}-riscv-cpu", deprecated=False)
            for name in CPU_MODELS
        ]

    async def query_memory_size_summary(self) -> MemoryInfo:
        """`query-memory-size-summary`."""
        return MemoryInfo(base_memory=self._services.board.ram_size)

    async def memsave(self, *, val: int, size: int, filename: str, cpu_index: int | None) -> None:
        """`memsave`."""
        cpu = next((cpu for cpu in self._cpus() if cpu.index == (cpu_index or 0)), None)
        if cpu is None:
            raise GenericError("Parameter 'cpu-index' expects a CPU number")
        await save_virtual(self._services.vm, cpu.vcpu, val, size, filename)

    async def pmemsave(self, *, val: int, size: int, filename: str) -> None:
        """`pmemsave`."""
        await save_physical(self._services.vm, val, size, filename)

    async def dumpdtb(self, *, filename: str) -> None:
        """`dumpdtb`."""
        blob = self._services.board.device_tree
        if blob is None:
            raise GenericError("This machine doesn't have an FDT")
        await save_blob(blob, filename)

    def _cpus(self) -> list[Any]:
        """The processors' objects, in the order of their numbers."""
        found = [node for node in self._services.tree.root.walk() if node.is_a("cpu")]
        return sorted(found, key=lambda cpu: cpu.index)


def _text(value: object) -> str:
    """A property's value as on the command line."""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)

"""`info` on what the machine is made of, and its figures.

Source: QEMU 10.0, for layout: hw/core/machine-hmp-cmds.c, monitor/hmp-cmds.c, stats/stats-hmp-cmds.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell

_TEN = {
    -18: "a",
    -15: "f",
    -12: "p",
    -9: "n",
    -6: "u",
    -3: "m",
    0: "",
    3: "k",
    6: "M",
    9: "G",
    12: "T",
    15: "P",
    18: "E",
}
_TWO = {0: "", 10: "Ki", 20: "Mi", 30: "Gi", 40: "Ti", 50: "Pi", 60: "Ei"}
_SYMBOLS = {"seconds": "s", "bytes": "B"}


async def _text(shell: Shell, command: str) -> None:
    """What a command has laid out for people already."""
    shell.print((await shell.qmp(command))["human-readable-text"])


async def balloon(shell: Shell, arguments: dict[str, Any]) -> None:
    """`balloon`."""
    await shell.qmp("balloon", {"value": arguments["value"]})


async def balloon_info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info balloon`."""
    shell.print(f"balloon: actual={(await shell.qmp('query-balloon'))['actual'] >> 20}\n")


async def irq(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info irq`."""
    await _text(shell, "x-query-irq")


async def pic(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info pic`."""
    await _text(shell, "x-query-interrupt-controllers")


async def numa(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info numa`."""
    await _text(shell, "x-query-numa")


async def ramblock(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info ramblock`."""
    await _text(shell, "x-query-ramblock")


async def roms(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info roms`."""
    await _text(shell, "x-query-roms")


async def hotpluggable_cpus(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info hotpluggable-cpus`."""
    cpus = await shell.qmp("query-hotpluggable-cpus")
    shell.print("Hotpluggable CPUs:\n")
    for cpu in cpus:
        shell.print(f'  type: "{cpu["type"]}"\n  vcpus_count: "{cpu["vcpus-count"]}"\n')
        if "qom-path" in cpu:
            shell.print(f'  qom_path: "{cpu["qom-path"]}"\n')
        shell.print("  CPUInstance Properties:\n")
        for name, value in cpu["props"].items():
            shell.print(f'    {name}: "{value}"\n')


async def memory_devices(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info memory-devices`."""
    for device in await shell.qmp("query-memory-devices"):
        data = device["data"]
        shell.print(f'Memory device [{device["type"]}]: "{data.get("id", "")}"\n  addr: {data["addr"]:#x}\n')
        for name in ("slot", "node", "size", "memdev"):
            shell.print(f"  {name}: {data[name]}\n")
        for name in ("hotplugged", "hotpluggable"):
            shell.print(f"  {name}: {'true' if data[name] else 'false'}\n")


async def memdev(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info memdev`."""
    for backend in await shell.qmp("query-memdev"):
        shell.print(f"memory backend: {backend['id']}\n  size:  {backend['size']}\n")
        for name in ("merge", "dump", "prealloc", "share", "reserve"):
            if name in backend:
                shell.print(f"  {name}: {'true' if backend[name] else 'false'}\n")
        nodes = _ranges(backend["host-nodes"])
        shell.print(f"  policy: {backend['policy']}\n  host nodes: {nodes}\n\n")


def _ranges(numbers: list[int]) -> str:
    """Numbers in their order, those that follow each other as FIRST-LAST."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


async def iothreads(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info iothreads`."""
    for thread in await shell.qmp("query-iothreads"):
        shell.print(f"{thread['id']}:\n  thread_id={thread['thread-id']}\n")
        for name in ("poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"):
            shell.print(f"  {name}={thread[name]}\n")


async def stats(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info stats`: of the machine, or of the processor that commands are about."""
    from qemud._generated.types.stats import StatsProvider, StatsTarget

    target, provider = arguments["target"], arguments.get("provider")
    known = [each.value for each in StatsProvider]
    if target not in {each.value for each in StatsTarget}:
        shell.print(f"invalid stats target {target}\n")
        return
    if provider is not None and provider not in known:
        shell.print(f"invalid stats provider {provider}\n")
        return
    schemas = await shell.qmp("query-stats-schemas", {"provider": provider} if provider else {})
    wanted: dict[str, Any] = {"target": target}
    if target == "vcpu":
        index = (await shell.cpu())["cpu-index"]
        cpus = await shell.qmp("query-cpus-fast")
        wanted["vcpus"] = [cpu["qom-path"] for cpu in cpus if cpu["cpu-index"] == index]
    names = arguments.get("names")
    if names is not None or provider is not None:
        only = {} if names in {None, "*"} else {"names": names.split(",")}
        wanted["providers"] = [{"provider": each, **only} for each in ([provider] if provider else known)]
    for result in await shell.qmp("query-stats", wanted):
        if provider is None:
            shell.print(f"provider: {result['provider']}\n")
        described = {
            value["name"]: value
            for schema in schemas
            if (schema["provider"], schema["target"]) == (result["provider"], target)
            for value in schema["stats"]
        }
        for each in result["stats"]:
            value = each["value"]
            shown = ("yes" if value else "no") if isinstance(value, bool) else value
            shell.print(f"    {each['name']} ({_kind(described[each['name']])}): {shown}\n")


def _kind(value: dict[str, Any]) -> str:
    """What a figure counts, and in which unit."""
    unit, exponent, base = value.get("unit"), value["exponent"], value.get("base", 10)
    if unit is None and not exponent:
        return str(value["type"])
    prefix = (_TEN if base == 10 else _TWO).get(exponent)
    if unit in _SYMBOLS and prefix is not None:
        return f"{value['type']}, {prefix}{_SYMBOLS[unit]}"
    power = f"* {base}^{exponent}" if exponent else ""
    return f"{value['type']}, {' '.join(filter(None, (power, unit)))}"

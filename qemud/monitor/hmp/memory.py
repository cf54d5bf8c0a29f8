"""Commands that show memory and numbers.

Source: QEMU 10.0, monitor/hmp-cmds-target.c and monitor/hmp-cmds.c, for texts and layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.monitor.hmp.expression import signed
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.monitor.hmp.arguments import Format
    from qemud.monitor.hmp.shell import Shell

MAX_DUMP = 1 << 20
"""Bytes that one command shows at most: the text of a megabyte has many."""

_CHUNK = 1024
"""Bytes between two looks at what else there is to do."""
_ADDRESS = (1 << 64) - 1
_CHARACTERS = {0x27: "\\'", 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r"}


async def print_(shell: Shell, arguments: dict[str, Any]) -> None:
    """`print`: the value of an expression."""
    value, kind = arguments["val"], arguments["fmt"].kind
    unsigned = value & _ADDRESS
    match kind:
        case "o":
            text = f"0{unsigned:o}" if unsigned else "0"
        case "x":
            text = f"{unsigned:#x}" if unsigned else "0"
        case "u":
            text = str(unsigned)
        case "c":
            # A C int: its lowest 32 bits.
            text = _character(unsigned & 0xFFFF_FFFF)
        case _:
            text = str(value)
    shell.print(f"{text}\n")


async def dump_virtual(shell: Shell, arguments: dict[str, Any]) -> None:
    """`x`: memory as the processor sees it."""
    if not await shell.qmp("query-cpus-fast"):
        shell.print("Can not dump without CPU\n")
        return
    await _dump(shell, arguments["fmt"], arguments["addr"] & _ADDRESS, await shell.cpu())


async def dump_physical(shell: Shell, arguments: dict[str, Any]) -> None:
    """`xp`: physical memory."""
    if arguments["fmt"].kind == "i" and not await shell.qmp("query-cpus-fast"):
        shell.print("Can not dump without CPU\n")
        return
    await _dump(shell, arguments["fmt"], arguments["addr"] & _ADDRESS, {})


async def _dump(shell: Shell, fmt: Format, address: int, where: dict[str, int]) -> None:
    if fmt.kind == "i":
        from qemud.monitor.hmp.disassembly import disassemble

        await disassemble(shell, address, fmt.items, where)
        return
    size = 1 if fmt.kind == "c" else fmt.size
    left = fmt.size * fmt.items
    if left > MAX_DUMP:
        raise GenericError(f"{left} bytes were asked for, at most {MAX_DUMP} can be shown at once")
    row = 8 if fmt.size == 1 else 16
    while left:
        wanted = min(left, _CHUNK)
        data = await shell.read_memory(address, wanted, where)
        for start in range(0, wanted, row):
            end = min(start + row, wanted)
            shell.print(f"{address + start & _ADDRESS:016x}:")
            if end > len(data):
                shell.print(" Cannot access memory\n")
                return
            items = (
                int.from_bytes(data[at : min(at + size, end)], "little") for at in range(start, end, size)
            )
            shell.print("".join(f" {_item(item, fmt.kind, size)}" for item in items) + "\n")
        address = address + wanted & _ADDRESS
        left -= wanted


def _item(value: int, kind: str, size: int) -> str:
    """One item of `size` bytes, as wide as the widest."""
    match kind:
        case "o":
            return (f"0{value:o}" if value else "0").rjust(-(-size * 8 // 3))
        case "u":
            return str(value).rjust(-(-size * 80 // 33))
        case "d":
            # Smaller items than 8 bytes are read without their sign.
            return str(signed(value)).rjust(-(-size * 80 // 33))
        case "c":
            return _character(value)
        case _:
            return f"0x{value:0{size * 2}x}"


def _character(value: int) -> str:
    """A character constant of C."""
    if value in _CHARACTERS:
        return f"'{_CHARACTERS[value]}'"
    return f"'{chr(value)}'" if 32 <= value <= 126 else f"'\\x{value:02x}'"


MAX_SUM = 16 << 20
"""The most bytes that are added up; holes do not count.  Some seconds of work."""


async def sum_(shell: Shell, arguments: dict[str, Any]) -> None:
    """`sum`: the checksum of the BSD program sum(1); where there is nothing, zeros are added."""
    address, left = arguments["start"], arguments["size"]
    total = 0
    budget = MAX_SUM
    while left:
        if budget <= 0:
            raise GenericError(
                f"more than {MAX_SUM} bytes of memory and registers, which is too much for one sum"
            )
        wanted = min(left, _CHUNK)
        data = await shell.read_memory(address, wanted, {})
        for byte in data:
            total = ((total >> 1 | total << 15) + byte) & 0xFFFF
        budget -= len(data)
        if len(data) < wanted:
            budget -= _CHUNK  # what finding the end of the hole costs
            skipped = min(left - len(data), await _hole(shell, address + len(data)))
            turns = skipped % 16
            total = (total >> turns | total << 16 - turns) & 0xFFFF
            wanted = len(data) + skipped
        address += wanted
        left -= wanted
    shell.print(f"{total:05d}\n")


async def _hole(shell: Shell, address: int) -> int:
    """How many bytes there are, at least one, before something may be readable again."""
    regions = await shell.qmp("x-query-mtree")
    if any(region["base"] <= address < region["base"] + region["size"] for region in regions):
        return 1
    return min((region["base"] for region in regions if region["base"] > address), default=1 << 64) - address


async def gva2gpa(shell: Shell, arguments: dict[str, Any]) -> None:
    """`gva2gpa`: where a virtual address leads."""
    if not await shell.qmp("query-cpus-fast"):
        shell.print("No cpu\n")
        return
    address = arguments["addr"] & _ADDRESS
    reply = await shell.qmp("x-translate-address", {"address": address, **await shell.cpu()})
    shell.print(f"gpa: {reply['physical']:#x}\n" if "physical" in reply else "Unmapped\n")


async def memsave(shell: Shell, arguments: dict[str, Any]) -> None:
    """`memsave`."""
    if not await shell.qmp("query-cpus-fast"):
        shell.print("No CPU available\n")
        return
    await shell.qmp("memsave", {**_part(arguments), **await shell.cpu()})


async def pmemsave(shell: Shell, arguments: dict[str, Any]) -> None:
    """`pmemsave`."""
    await shell.qmp("pmemsave", _part(arguments))


def _part(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "val": arguments["val"] & _ADDRESS}


async def dump_guest_memory(shell: Shell, arguments: dict[str, Any]) -> None:
    """`dump-guest-memory`."""
    wanted = {
        "paging": arguments.get("paging", False),
        "detach": arguments.get("detach", False),
        "protocol": f"file:{arguments['filename']}",
    }
    if arguments.get("zlib"):
        wanted["format"] = "kdump-raw-zlib" if arguments.get("raw") else "kdump-zlib"
    for name in ("begin", "length"):
        if arguments.get(name) is not None:
            wanted[name] = arguments[name]
    await shell.qmp("dump-guest-memory", wanted)


async def dump_info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info dump`."""
    answer = await shell.qmp("query-dump")
    shell.print(f"Status: {answer['status']}\n")
    if answer["status"] == "active" and answer["total"]:
        shell.print(f"Finished: {100 * answer['completed'] / answer['total']:.2f} %\n")

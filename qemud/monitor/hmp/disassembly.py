"""`x /i` and `xp /i`: instructions as text, by the library capstone, where it is installed (`pip install qemud[disassembler]`).

Layout as of QEMU 10.0, disas/disas-mon.c: address, the instruction's bytes as a number, its text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.monitor.hmp.shell import Shell

MAX_INSTRUCTIONS = 1 << 14
_LONGEST = 4
_CHUNK = 1024
"""Bytes between two looks at what else there is to do."""


async def disassemble(shell: Shell, address: int, count: int, where: dict[str, int]) -> None:
    """Show `count` instructions from `address`."""
    if count > MAX_INSTRUCTIONS:
        raise GenericError(
            f"{count} instructions were asked for, at most {MAX_INSTRUCTIONS} can be shown at once"
        )
    engine = _engine()
    data = b""
    while count:
        if len(data) < _LONGEST:
            behind = address + len(data) & (1 << 64) - 1
            data += await shell.read_memory(behind, min(_CHUNK, _LONGEST * count), where)
        length, text = _instruction(engine, data, address)
        if not length:
            shell.print(f"0x{address:08x}:  Address {address:#x} is out of bounds.\n")
            return
        shell.print(text)
        data = data[length:]
        address = address + length & (1 << 64) - 1
        count -= 1


def _engine() -> Any:
    try:
        import capstone
    except ImportError:
        raise GenericError(
            "showing instructions takes the Python package 'capstone', which is not installed"
        ) from None
    return capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)


def _instruction(engine: Any, data: bytes, address: int) -> tuple[int, str]:
    """The length of the first instruction and its line; 0 where the data end before it does."""
    if len(data) < 2:
        return 0, ""
    length = 4 if data[0] & 3 == 3 else 2
    if len(data) < length:
        return 0, ""
    found: Iterator[tuple[int, int, str, str]] = engine.disasm_lite(data[:length], address, 1)
    _, _, name, operands = next(found, (0, 0, "illegal", ""))
    operands = operands.replace(", ", ",")
    word = int.from_bytes(data[:length], "little")
    return (
        length,
        f"0x{address:08x}:  {word:0{2 * length}x}{'':{18 - 2 * length}}{name:<23} {operands}".rstrip() + "\n",
    )

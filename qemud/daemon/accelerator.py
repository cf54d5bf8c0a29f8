"""What `-accel` and the machine's property `accel` ask for: the engine and its properties.

    options = choose_accelerator(line, "kvm:tcg")       # a `TcgAccelOptions`; warns of kvm, which is not here

There is one engine, by QEMU's name for it: management tools know Unicorn's translator, which is QEMU's, as `tcg`.

Source of the texts: QEMU 10.0, system/vl.c and accel/tcg/tcg-all.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.daemon.cmdline import UsageError, at
from qemud.logs import report
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.accel import TcgAccelOptions
    from qemud._generated.types.options import CommandLine

ACCELERATORS = frozenset({"tcg"})

_MOST_TB_SIZE = 2048  # MiB: what a branch within translated code can reach on x86-64


def asks_for_list(text: str) -> bool:
    """Whether an argument of `-accel` asks which there are; one that names none does, too."""
    return qemuopts.parse(text, implied="accel").get("accel", "") in qemuopts.HELP | {""}


def choose_accelerator(line: CommandLine, from_machine: str | None) -> TcgAccelOptions:
    """The first engine asked for that exists, with its properties; the ones before it are told of on standard error.

    Raises UsageError when none exists, or one is given properties that it has not.
    """
    if line.accel and from_machine is not None:
        raise UsageError('The -accel and "-machine accel=" options are incompatible')
    if not line.accel:
        asked = [({"accel": name}, "") for name in (from_machine or "tcg").split(":")]
    else:
        asked = [
            (qemuopts.parse(text, implied="accel", warn=_warn(text)), f"-accel {text}: ")
            for text in line.accel
        ]
    refused: list[str] = []
    for values, place in asked:
        name = values.pop("accel")
        if name not in ACCELERATORS:
            refused.append(f"{place}invalid accelerator {name}")
            continue
        with at("accel", place.removeprefix("-accel ").removesuffix(": ")):
            if values.get("thread") == "multi" and line.icount is not None and line.icount.shift is not None:
                raise GenericError("No MTTCG when icount is enabled")
            options = _tcg(values)
        for text in refused:
            report(text)
        if refused:
            report(f"falling back to {name}")
        return options
    for text in refused[:-1]:
        report(text)
    raise UsageError(refused[-1])


def _warn(text: str) -> Callable[[str], None]:
    return lambda warning: report(f"-accel {text}: warning: {warning}")


def _tcg(values: dict[str, str]) -> TcgAccelOptions:
    from qemud._generated.types.accel import TcgAccelOptions, TcgThread

    if not values:
        return TcgAccelOptions()
    import re

    from qemud.qapi.runtime.keyval import parse_keyval_type

    for name in values:
        if name not in TcgAccelOptions.__struct_encode_fields__:
            raise GenericError(f"Property 'tcg-accel.{name}' not found")
    if values.get("thread", "multi") not in {each.value for each in TcgThread}:
        raise GenericError(f"Invalid 'thread' setting {values['thread']}")
    if not re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)", values.get("tb-size", "0")):
        raise GenericError("Parameter 'tb-size' expects uint64")
    options: TcgAccelOptions = parse_keyval_type("TcgAccelOptions", values)
    if options.tb_size > _MOST_TB_SIZE:
        raise GenericError(f"tb-size={options.tb_size} was given, at most {_MOST_TB_SIZE} (MiB) was expected")
    for name in ("split-wx", "one-insn-per-tb"):
        if getattr(options, name.replace("-", "_")):
            raise GenericError(f"the engine cannot do this: {name}=on was given, {name}=off was expected")
    return options

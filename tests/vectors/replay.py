"""Replays a recorded case on a program and tells how its answers differ.

A reply that should not come is seen because a question with an answer of its own follows it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.programs import Program, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).parent
BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-monitor", "none")
_LAST = "the question after the last step"

Case = dict[str, Any]


def cases(kind: str) -> dict[str, Case]:
    """The recorded cases of a kind, ``qmp`` or ``cli``, by name; a command line's name is the command line."""
    with _deep():
        read = [json.loads(line) for line in (FOLDER / f"{kind}-10.0.jsonl").read_text().splitlines()]
    return {case.get("name") or shlex.join(case["args"]): case for case in read}


@contextlib.contextmanager
def _deep() -> Iterator[None]:
    """Lets json recurse: one conversation nests a thousand arrays."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def left_out(kind: str) -> dict[str, str]:
    """The names of cases that are not followed, with the reasons."""
    listed: dict[str, str] = tomllib.loads((FOLDER / "left-out.toml").read_text())[kind]
    return listed


def replay_qmp(case: Case, start: Callable[..., Program]) -> list[str]:
    """The differences between a recorded conversation and the one that the program holds."""
    with _deep():
        return list(_conversation(case, start(*BOARD, negotiate=False)))


def _conversation(case: Case, program: Program) -> Iterator[str]:
    client = program.qmp
    client.message()
    if case["negotiated"]:
        client.command("qmp_capabilities")
    for step in case["steps"]:
        sent = step["send"]
        client.send(sent.encode("latin1" if all(ord(c) < 256 for c in sent) else "utf-8"))
        want = [_here(reply, program) for reply in step["replies"]]
        got = [_reply(client.reply) for _ in want]
        if not all(map(_same, want, got)):
            yield f"sent {sent[:200]!r}\nwant {_text(want)[:600]}\ngot  {_text(got)[:600]}"
        if {"CLOSED": True} in got:
            return
    # A bare number is complete only when something follows it: its answer, if it comes late, is no surprise.
    late = not case["steps"][-1]["replies"]
    if late and not quiet(client.socket, 0.1):
        yield f"a reply that was not recorded: {_reply(client.reply)}"
    client.send(json.dumps({"execute": "query-name", "id": _LAST}).encode() + b"\n")
    while (reply := _reply(client.reply)).get("id") != _LAST:
        if not late:
            yield f"a reply that was not recorded: {reply}"
        if "CLOSED" in reply:
            return


def _here(reply: Any, program: Program) -> Any:
    """A recorded reply as it is here: with this monitor's socket, and without virtual consoles."""
    text = json.dumps(reply).replace("compat_monitor0", "test-qmp")
    reply = json.loads(text.replace("unix:/tmp/v.sock", f"unix:{program.qmp_address}"))
    if program.qemud and isinstance(reply.get("return"), list):
        reply["return"] = [item for item in reply["return"] if item.get("filename") != "vc"]
    return reply


def _reply(receive: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return receive()
    except EOFError:
        return {"CLOSED": True}


def _same(want: dict[str, Any], got: dict[str, Any]) -> bool:
    if want.get("return") == "...":
        # Any return value will do: it depends on the machine.
        return "return" in got and want.get("id") == got.get("id")
    return _text(want) == _text(got)


def _text(value: Any) -> str:
    """JSON that is equal for equal replies: true is not 1, unlike in Python; 1000.0 is 1000; members and devices have no order."""
    if isinstance(value, dict) and isinstance(value.get("return"), list):
        value = {**value, "return": sorted(value["return"], key=_text)}
    return json.dumps(json.loads(json.dumps(value), parse_float=_number), sort_keys=True)


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def replay_cli(case: Case, start: Callable[..., Program]) -> list[str]:
    """The differences between a recorded command line's end and the program's.

    A program that answers its QMP client keeps running; one that does not has ended.
    """
    program = start(*case["args"], negotiate=False)
    try:
        # A greeting alone says little: QEMU's comes while the machine is still being made.
        program.qmp.negotiate()
        status: int | str = "running"
    except (EOFError, BrokenPipeError):
        status = program.wait()
    want = (case["status"], _complaint(case["stderr"], "PROG"))
    got = (status, _complaint(program.stderr, Path(program.command[0]).name))
    return [] if want == got else [f"want {want}\ngot  {got}\nstandard error: {program.stderr[-2000:]}"]


def _complaint(text: str, program: str) -> str:
    """The first line of `text` that the program signed, without the name."""
    found = re.search(rf"^(?:\S*/)?{re.escape(program)}: (.*)$", text, re.MULTILINE)
    return found[1] if found else ""

"""No input makes the schema compiler do anything but its work: a schema or one well-formed diagnostic.

Valid schemas are mutated, token by token and byte by byte; the way in is the public one, a file.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from qemud.qapi.model import Schema
from qemud.qapi.schema import SchemaError, load
from tests.qapi.cases import CASES, read_cases

SCHEMAS = Path(__file__).parent / "schemas"
SOURCES = [
    (SCHEMAS / "tour.json").read_text(encoding="utf-8"),
    (SCHEMAS / "tour" / "part-two.json").read_text(encoding="utf-8"),
    *(case.files["s.json"] for path in sorted(CASES.glob("*.txt")) for case in read_cases(path)),
]
TOKEN = re.compile(r"#[^\n]*|'[^'\n]*'|\w+|[ \t]+|.", re.DOTALL)
TOKENS = sorted({token for source in SOURCES for token in TOKEN.findall(source)})
BYTES = [
    b"'",
    b"\\",
    b"\0",
    b"\n",
    b"\r",
    b"#",
    b"##\n",
    b"# @a: ",
    b"\xff",
    b"\xc3\xa9",
    b"{",
    b"[",
    b"-1",
    b"\xe2\x80\xa8",
]

DIAGNOSTIC = re.compile(
    r"""(?:In\ file\ included\ from\ .+:\d+:\n)*
        (?:.+:\ In\ (?P<kind>enum|struct|union|alternate|command|event)\ '.*':\n)?
        .+:\d+(?::\d+)?:\ .+
        (?:\nValid\ keys\ are\ .+\.|\n(?:.+\n)*.+:\d+:\ previous\ definition)?""",
    re.VERBOSE,
)


def check(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s.json"
        path.write_bytes(content)
        try:
            result: object = load(path)
        except SchemaError as error:
            text = str(error)
            assert DIAGNOSTIC.fullmatch(text), text
            assert text.replace("\n", "").isprintable()
        else:
            assert isinstance(result, Schema)


@st.composite
def mutated_tokens(draw: st.DrawFn) -> bytes:
    tokens = TOKEN.findall(draw(st.sampled_from(SOURCES)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(len(tokens) - 1, 0)))
        match draw(st.sampled_from(["delete", "insert", "swap", "repeat"])):
            case "delete":
                del tokens[at : at + draw(st.integers(1, 4))]
            case "insert":
                tokens.insert(at, draw(st.sampled_from(TOKENS)))
            case "swap" if tokens:
                other = draw(st.integers(0, len(tokens) - 1))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case _:
                tokens[at:at] = tokens[at : at + 8] * draw(st.integers(1, 60))
    return "".join(tokens).encode()


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(SOURCES)).encode())
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(BYTES) | st.binary(max_size=3))
    return bytes(content)


@given(mutated_tokens())
def test_tokens_in_disorder(content: bytes) -> None:
    check(content)


@given(mutated_bytes())
def test_bytes_in_disorder(content: bytes) -> None:
    check(content)


@given(st.binary(max_size=200))
def test_noise(content: bytes) -> None:
    check(content)

"""Framing: QEMU's recorded answers, and the laws that hold for any input."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qemud.monitor.qmp.framing import Framer, parse_document
from qemud.monitor.qmp.values import LATER, NEED_DATA, JsonError, Limits


def frame(data: bytes, cuts: list[int] | None = None, **options: Any) -> list[Any]:
    """All that comes out of `data`, cut at `cuts`; errors as ("error", text)."""
    framer = Framer(**options)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts or []), len(data)]
    items = []
    for start, stop in itertools.pairwise(edges):
        framer.feed(data[start:stop])
        while (item := framer.next()) is not NEED_DATA:
            if item is not LATER:
                items.append(("error", str(item)) if isinstance(item, JsonError) else item)
    return items


WAYS: list[dict[str, Any]] = [{}, {"short_way": False}]


def exact(value: Any) -> str:
    """A text that is equal only for equal values of equal types."""
    return repr(value)


def error(text: str) -> tuple[str, str]:
    return ("error", f"JSON parse error, {text}")


@pytest.mark.parametrize(
    ("data", "items"),
    [
        (b"", []),
        (b"{}", [{}]),
        (b" \r\n\t{}\n{}", [{}, {}]),
        (b"{'a':'b\"c','d':\"e'f\"}", [{"a": 'b"c', "d": "e'f"}]),
        (rb"""{"a": "\'\"\\\/\b\f\n\r\t"}""", [{"a": "'\"\\/\b\f\n\r\t"}]),
        # a number or keyword is complete only when something else follows
        (b"1", []),
        (b"1 ", [1]),
        (b"null,", [None, error("expecting value")]),
        (b'"x"', ["x"]),
        (b"[true,false,null]", [[True, False, None]]),
        # garbage: the unfit token is told once, then all is passed over up to a structural or control character
        (b"hello world\n", [error("invalid keyword 'hello'"), error("invalid keyword 'world'")]),
        (b"H ello {}", [error("stray 'H'"), {}]),
        (b"%d\n{}", [error("stray '%'"), {}]),
        (b'{"a": NaN}{}', [error("stray 'N'"), error("expecting value"), {}]),
        (b'{"a":01}{}', [error("stray '01'"), error("expecting value"), {}]),
        (b'{"a":1.}{}', [error("stray '1.}'"), {}]),
        (b'{"a":-}{}', [error("stray '-}'"), {}]),
        (b'{"a":1e}{}', [error("stray '1e}'"), {}]),
        (b"0e1 {}", [0, error("invalid keyword 'e'"), 1, {}]),
        (b'{"a":0e1}', [error("expected separator in dict")]),
        (b'{"a":-0e1}', [error("expected separator in dict")]),
        # forcing the parser into a known state
        (b'{"a": "bc\xff{}', [error("stray '\"bc\ufffd'"), {}]),
        (b"{\x01{}", [error("stray '\x01'"), {}]),
        (b'{"a\x00b":{}', [error("stray '\"a'"), error("expecting value"), {}]),
        (
            b"x \xffy\x01{}",
            [error("invalid keyword 'x'"), error("stray '\ufffd'"), error("stray '\x01'"), {}],
        ),
        # structure
        (b"}{}", [error("expecting value"), {}]),
        (b"{]{}", [error("expecting value"), {}]),
        (b"[}{}", [error("expecting value"), {}]),
        (b"[{]}{}", [error("expecting value"), {}]),
        (b'{"a" 1}', [error("missing : in object pair")]),
        (b'{"a":1 "b":2}', [error("expected separator in dict")]),
        (b"[1 2]", [error("expected separator in list")]),
        (b"[1,]", [error("expecting value")]),
        (b'{"a":1,}', [error("expecting value")]),
        (b'{"a":}', [error("expecting value")]),
        (b"{1:2}", [error("key is not a string in object")]),
        (b"{[1,{}]:2}", [error("key is not a string in object")]),
        (b"{[}]:2}", [error("expecting value"), error("expecting value"), 2, error("expecting value")]),
        (b'{"a":1,"a":2}', [error("duplicate key")]),
        (b'{"a":{"b":1,"b":2},"c":[}]', [error("duplicate key")]),
        (b'{"a":1,"\\u0061":2}', [error("duplicate key")]),
        (b'{"a":[{"x":1},{"x":2}]}', [{"a": [{"x": 1}, {"x": 2}]}]),
        (b"{" + b"w" * 2000 + b"}", [error("invalid keyword '" + "w" * (1023 - 17))]),
        # strings
        (rb'["\q"]', [error("invalid escape sequence in string")]),
        (rb'["\u00e9\u20ac\ud834\udd1e\u0000"]', [["\u00e9\u20ac\U0001d11e\0"]]),
        ('["é€𝄞"]'.encode(), [["é€𝄞"]]),
        (b'["\xc0\x80"]', [["\0"]]),
        (b'["\xc3("]', [error("invalid UTF-8 sequence in string")]),
        (b'["\xc1\xbf"]', [error("invalid UTF-8 sequence in string")]),
        (b'["\xed\xa0\x80"]', [error("invalid UTF-8 sequence in string")]),
        (b'["\xef\xbf\xbf"]', [error("invalid UTF-8 sequence in string")]),
        (b'["\xef\xb7\x90"]', [error("invalid UTF-8 sequence in string")]),
        (b'["\xf4\x90\x80\x80"]', [error("invalid UTF-8 sequence in string")]),
        (b'["\xc3\\q"]', [error("invalid UTF-8 sequence in string")]),
        (b'["\\q\xc3"]', [error("invalid escape sequence in string")]),
        (rb'["\uffff"]', [error(r"\uffff is not a valid Unicode character")]),
        (rb'["\ud800"]', [error(r"\ud800 is not a valid Unicode character")]),
        (rb'["\ud800\uCAFE"]', [error(r"\ud800 is not a valid Unicode character")]),
        (rb'["\udc00\ud800"]', [error(r"\udc00 is not a valid Unicode character")]),
        (rb'["\ud83f\udffe"]', [error(r"\ud83f\udffe is not a valid Unicode character")]),
        (rb'["\u12"]', [error(r'\u12" is not a valid Unicode character')]),
        (b'["\\u12\xc3\xa9"]', [error("\\u12é is not a valid Unicode character")]),
        # numbers
        (b"[0,-0,9223372036854775808,-9223372036854775808]", [[0, 0, 1 << 63, -(1 << 63)]]),
        (b"[18446744073709551615,18446744073709551616]", [[(1 << 64) - 1, float(1 << 64)]]),
        (b"[-9223372036854775809]", [[-float(1 << 63)]]),
        (b"[1e3,1.5,-2.5E-3,0.0]", [[1000.0, 1.5, -0.0025, 0.0]]),
        (b"[" + b"9" * 5000 + b"]", [[math.inf]]),
    ],
)
def test_framing_is_qemus(data: bytes, items: list[Any]) -> None:
    for options in WAYS:
        assert exact(frame(data, **options)) == exact(items)
    assert exact(frame(data, list(range(len(data))))) == exact(items)


@pytest.mark.parametrize("opener", [b"[", b'{"a":'])
def test_nesting_ends_at_1024(opener: bytes) -> None:
    closer = b"]" if opener == b"[" else b"}"
    deepest = opener * 1024 + b"1"[: len(opener) - 1] + closer * 1024
    for options in WAYS:
        [value] = frame(deepest, **options)
        depth = 0
        while value and value != 1:
            value = value[0] if isinstance(value, list) else value["a"]
            depth += 1
        assert depth >= 1023
        assert frame(opener * 1025, **options)[0] == ("error", "JSON nesting depth limit exceeded")


def test_tokens_and_bytes_of_a_message_are_limited() -> None:
    for options in WAYS:
        assert frame(b"[1,2,3]", limits=Limits(tokens=7), **options) == [[1, 2, 3]]
        assert frame(b"[1,2,3]", limits=Limits(tokens=6), **options)[0] == (
            "error",
            "JSON token count limit exceeded",
        )
        assert frame(b'["1234"]', limits=Limits(bytes=9), **options) == [["1234"]]
        assert frame(b'["1234"]', limits=Limits(bytes=8), **options)[0] == (
            "error",
            "JSON token size limit exceeded",
        )
        assert frame(b'{"a":"1234"}{}', limits=Limits(bytes=12), **options)[0] == (
            "error",
            "JSON token size limit exceeded",
        )


def test_an_endless_token_is_given_up_and_not_kept() -> None:
    framer = Framer(limits=Limits(bytes=100))
    for _ in range(50):
        framer.feed(b'"' + b"x" * 9)
        while (item := framer.next()) is not NEED_DATA:
            assert isinstance(item, JsonError | str)
    assert frame(b'"' + b"x" * 100, limits=Limits(bytes=100)) == [("error", "JSON token size limit exceeded")]
    assert frame(b'"' + b"x" * 99, limits=Limits(bytes=100)) == []


def test_blanks_do_not_count() -> None:
    assert frame(b"[" + b" " * 1000 + b"]", limits=Limits(bytes=3)) == [[]]


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_a_large_message_may_come_in_small_pieces(piece: int) -> None:
    value = {"execute": "x", "arguments": {"data": 'a\\"b' * 20000, "list": list(range(1000))}}
    data = json.dumps(value).encode()
    assert frame(data, list(range(0, len(data), piece))) == [value]


# --- laws

_scraps = st.sampled_from(
    [
        *(b"{ } [ ] , : \" ' \\ 0 1 - . e E + true null x N % /".split()),
        *(bytes([byte]) for byte in b"\x00\x01\t\n\r \x7f\x80\xc0\xc3\xa9\xed\xf0\xfd\xfe\xff"),
        b'"a"',
        b'"a":',
        b'"b":1',
        b"\\u0061",
        b"\\ud83d\\ude00",
        b"{}",
        b'{"execute":"x"}',
        b'{"execute":"x","id":1}\r\n',
        b"18446744073709551616",
        b"0e1",
        b"1.5",
        "é".encode(),
        "\uffff".encode(),
    ]
)
_garbage = st.one_of(st.binary(max_size=60), st.lists(_scraps, max_size=30).map(b"".join))
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), 1 << 65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_request = st.dictionaries(st.sampled_from(["execute", "arguments", "id", "a"]), _json, max_size=4)
_cuts = st.lists(st.integers(0, 300), max_size=8)


@given(_garbage, _cuts)
@settings(max_examples=600, deadline=None)
@example(b'{"a":0e1}{"b":1}', [])
@example(b'{"a":"\x7f"}', [])
def test_both_ways_and_any_cut_agree(data: bytes, cuts: list[int]) -> None:
    whole = exact(frame(data, short_way=False))
    assert exact(frame(data)) == whole
    assert exact(frame(data, cuts)) == whole
    assert exact(frame(data, cuts, short_way=False)) == whole
    assert exact(frame(data, list(range(len(data))))) == whole


@given(
    st.lists(st.tuples(_request, st.booleans(), st.sampled_from(["", "\n", "\r\n", " "])), max_size=5),
    _garbage,
    _cuts,
)
@settings(max_examples=300, deadline=None)
def test_commands_are_found_in_any_company(
    requests: list[tuple[dict[str, Any], bool, str]], garbage: bytes, cuts: list[int]
) -> None:
    data = "".join(json.dumps(value, ensure_ascii=plain) + end for value, plain, end in requests).encode(
        "utf-8", "surrogatepass"
    )
    data += garbage
    whole = exact(frame(data, short_way=False))
    assert exact(frame(data)) == whole
    assert exact(frame(data, cuts)) == whole


def _plain(value: Any) -> Any:
    """What QEMU makes of a value: integers beyond 64 bits become doubles."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _is_clean(value: Any) -> bool:
    """Whether all strings in it hold only characters that QEMU takes."""
    if isinstance(value, str):
        return not any(
            0xD800 <= ord(c) <= 0xDFFF or 0xFDD0 <= ord(c) <= 0xFDEF or ord(c) & 0xFFFE == 0xFFFE
            for c in value
        )
    if isinstance(value, list):
        return all(map(_is_clean, value))
    if isinstance(value, dict):
        return all(_is_clean(key) and _is_clean(item) for key, item in value.items())
    return True


@given(_request.filter(_is_clean), st.booleans(), _cuts)
@settings(max_examples=300, deadline=None)
def test_what_json_writes_is_read_back(value: dict[str, Any], ascii_only: bool, cuts: list[int]) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert exact(frame(data, cuts)) == exact([_plain(value)])
    assert exact(parse_document(data)) == exact(_plain(value))


@given(_garbage)
@settings(max_examples=300, deadline=None)
def test_a_control_character_restores_order(data: bytes) -> None:
    assert frame(data + b"\x01\x01{}")[-1] == {}
    assert frame(data + b'\xff\xff{"a":1}', list(range(len(data) + 9)))[-1] == {"a": 1}


# --- documents


def test_a_document_is_one_value() -> None:
    assert parse_document(b"12") == 12
    assert parse_document(b' {"a": [true]} ') == {"a": [True]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting a JSON value"),
        (b"  ", "Expecting a JSON value"),
        (b"{} {}", "Expecting at most one JSON value"),
        (b"{} x", "Expecting at most one JSON value"),
        (b"{", "JSON parse error, premature EOI"),
        (b'{"a"', "JSON parse error, premature EOI"),
        (b'{"a":1', "JSON parse error, premature EOI"),
        (b'{"a', "JSON parse error, stray '\"a'"),
        (b"-", "JSON parse error, stray '-'"),
        (b"nul", "JSON parse error, invalid keyword 'nul'"),
        (b"{a", "JSON parse error, invalid keyword 'a'"),
    ],
)
def test_a_bad_document_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse_document(text)
    assert str(caught.value) == message

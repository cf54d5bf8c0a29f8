"""Garbage of all kinds, sent to Debian's QEMU and to a monitor of ours: the same replies."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.qmp.fakes import Services, monitor

if TYPE_CHECKING:
    from tests.conftest import Starter

pytestmark = pytest.mark.differential

# A control character ends whatever is under way; the command behind it marks the end of the answers.
END = b'\x01\x01{"execute": "query-name", "id": "end"}\n'

SCRAPS = [
    b'{"execute":"query-name"}',
    b'{"execute":"query-name","id":1}',
    b"{'execute':'query-name','id':'x'}",
    b'{"execute":"nope","id":[1,2]}',
    *rb"{ } [ ] , : ' \ 0 1 - . e E + true null x N % / \u \u0041 \ud800 \udc00 \ud83d\ude00 \u12 \q \' \n".split(),
    b'"',
    *(
        bytes([byte])
        for byte in b"\x00\x01\x02\t\n\r \x7f\x80\xc0\xc3\xa9\xed\xf0\xf8\xfc\xfd\xfe\xff\xc1\xbf"
    ),
    "é€𝄞".encode(),
    "\uffff".encode(),
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    *b'"id": "execute": "query-name" {"id": 0e1 1e5 -0 1.5 18446744073709551616 -9223372036854775809'.split(),
    *b'"a":1 "a" [1,2] {"a":{}} id "arguments":{} "exec-oob" "id":0.1'.split(),
    b"[" * 1025,
    b"w" * 1100,
]


@pytest.mark.parametrize("seed", range(4))
def test_garbage_is_answered_as_qemu_does(seed: int, reference: Starter) -> None:
    chance = random.Random(seed)
    client = reference("-machine", "none", "-display", "none", "-nodefaults").qmp

    def qemu(data: bytes) -> list[Any]:
        client.send(data + END)
        replies = []
        while (reply := client.reply()).get("id") != "end":
            replies.append(reply)
        return replies

    async def compare() -> None:
        _, port = monitor(Services())
        for _ in range(500):
            data = b"".join(chance.choices(SCRAPS, k=chance.randint(1, 14)))
            cut = chance.randint(0, len(data))
            for piece in (data[:cut], data[cut:], END):
                port.receive(piece)
            *replies, _ = port.messages()
            assert json.dumps(replies, sort_keys=True) == json.dumps(qemu(data), sort_keys=True), data

    asyncio.run(compare())

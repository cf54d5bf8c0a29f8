"""Ring buffers: by the QMP commands, and the laws of what they keep."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qemud._generated.types import char
from tests.chardev.room import Room, in_room, refused

UTF8, BASE64 = char.DataFormat.UTF8, char.DataFormat.BASE64


def test_ringbuf() -> None:
    async def test(room: Room) -> None:
        read, write = room.qmp.ringbuf_read, room.qmp.ringbuf_write
        await room.add("r", "ringbuf", size=8)
        await write(device="r", data="0123456789é", format=UTF8)
        assert await read(device="r", size=100, format=UTF8) == "456789é"
        assert await read(device="r", size=100, format=UTF8) == ""
        await write(device="r", data="aGVs\nbG8=", format=BASE64)
        assert await read(device="r", size=3, format=BASE64) == "aGVs"
        await write(device="r", data="/wBh", format=BASE64)
        assert await read(device="r", size=100, format=UTF8) == "lo\ufffd\0a"
        await write(device="r", data="aéb", format=UTF8)
        assert await read(device="r", size=2, format=UTF8) == "a"  # not half a character
        assert await read(device="r", size=2, format=UTF8) == "é"
        assert await read(device="r", size=2, format=UTF8) == "b"
        await room.add("n", "null")
        assert await refused(read(device="r", size=0, format=UTF8)) == "size must be greater than zero"
        assert await refused(read(device="n", size=1, format=UTF8)) == "n is not a ringbuf device"
        assert await refused(read(device="x", size=1, format=UTF8)) == "Device 'x' not found"
        assert await refused(write(device="x", data="", format=UTF8)) == "Device 'x' not found"
        text = await refused(write(device="r", data="aGVs!!bG8=", format=BASE64))
        assert text == "Base64 data contains invalid characters"
        await write(device="r", data="a", format=BASE64)  # no whole byte
        assert await read(device="r", size=9, format=UTF8) == ""

    in_room(test)


def test_an_absurd_ring_buffer_costs_nothing() -> None:
    async def test(room: Room) -> None:
        await room.add("r", "ringbuf", size=1 << 62)
        await room.qmp.ringbuf_write(device="r", data="x", format=UTF8)
        assert await room.qmp.ringbuf_read(device="r", size=(1 << 63) - 1, format=UTF8) == "x"

    in_room(test)


@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(1, 40)), max_size=30), st.integers(0, 6))
def test_a_ring_buffer_keeps_the_last_bytes(steps: list[bytes | int], exponent: int) -> None:
    from qemud.chardev.ringbuf import RingbufChardev

    ringbuf = RingbufChardev("r", 1 << exponent)
    kept = b""
    for step in steps:
        if isinstance(step, bytes):
            ringbuf.write(step)
            kept = (kept + step)[-(1 << exponent) :]
        else:
            assert ringbuf.take(step) == kept[:step]
            kept = kept[step:]
    assert ringbuf.take(1 << 20) == kept


@given(st.text(max_size=40), st.lists(st.integers(1, 7), min_size=1, max_size=60))
def test_text_survives_any_cutting(text: str, sizes: list[int]) -> None:
    from qemud.chardev.ringbuf import RingbufChardev

    ringbuf = RingbufChardev("r", 65536)
    ringbuf.write(text.encode())
    # A size below a character's yields pieces of it; sizes of at least four bytes never do.
    pieces = [ringbuf.take_text(size + 3) for size in sizes]
    assert "".join([*pieces, ringbuf.take_text(65536)]) == text

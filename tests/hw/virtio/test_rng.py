"""Random bytes for a driver: `virtio-rng-device`."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from qemud._generated.types.backends import RngRandomProperties
from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud._generated.types.virtio import VirtioRngOptions
from qemud.hw.virtio.rng import VirtioRng
from qemud.machine.rng import RngRandom
from qemud.qapi.runtime.errors import GenericError
from tests.hw.virtio.devices import plug

if TYPE_CHECKING:
    from pathlib import Path

    from qemud._generated.types.virtio import VirtioRngState
    from tests.hw.virtio.driver import Driver

MODERN = VirtioMmioOptions(force_legacy=False)


def make(
    options: VirtioRngOptions | None = None, source: RngRandom | None = None
) -> tuple[VirtioRng, Driver]:
    device = VirtioRng(options)
    if source is not None:
        device.set_link("rng", "rng-backend", source)
    _, _, driver, _ = plug(device, MODERN)
    driver.start(size=64)
    return device, driver


def fill(driver: Driver, *sizes: int) -> list[bytes]:
    for size in sizes:
        driver.add(0, [], [size])
    driver.kick(0)
    return [driver.data(0, number, written) for number, written in driver.used(0)]


def test_every_buffer_is_filled_with_other_bytes() -> None:
    _, driver = make()
    found = fill(driver, *[64] * 60)
    assert [len(data) for data in found] == [64] * 60
    assert len(set(found)) == 60
    assert driver.interrupted()


def test_no_buffer_makes_the_machine_wait() -> None:
    _, driver = make()
    assert [len(data) for data in fill(driver, 1 << 20, 5)] == [4096, 5]


def test_a_period_has_so_many_bytes() -> None:
    device, driver = make(VirtioRngOptions(max_bytes=100, period=1000))
    assert [len(data) for data in fill(driver, 64, 64, 64)] == [64, 36]
    assert fill(driver, 64) == []
    driver.vm.pass_time(999_000_000)
    assert driver.used(0) == []
    driver.vm.pass_time(1_000_000)
    assert [written for _, written in driver.used(0)] == [64, 36]
    state: VirtioRngState = device.state
    assert state.quota == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (VirtioRngOptions(period=0), "'period' parameter expects a positive integer"),
        (VirtioRngOptions(max_bytes=0), "'max-bytes' parameter must be positive, and less than 2^63"),
        (VirtioRngOptions(max_bytes=1 << 63), "'max-bytes' parameter must be positive, and less than 2^63"),
    ],
)
def test_options_that_cannot_be(options: VirtioRngOptions, text: str) -> None:
    with pytest.raises(GenericError, match=text.replace("^", r"\^")):
        plug(VirtioRng(options), MODERN)


def test_buffers_for_reading_are_a_mistake() -> None:
    device, driver = make()
    driver.add(0, [b"not for you"], [])
    driver.kick(0)
    assert device.state.broken


def test_bytes_come_from_a_file_as_they_come(tmp_path: Path) -> None:
    async def main() -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = os.open(pipe, os.O_RDWR)
        source = RngRandom(RngRandomProperties(filename=str(pipe)))
        await source.complete()
        device, driver = make(source=source)
        mail = driver.vm.mailboxes
        assert fill(driver, 4, 4) == []
        mail.run_loop()
        os.write(writer, b"abcdefgh")
        while not mail.to_machine:
            await asyncio.sleep(0)
        mail.run_machine()
        assert [driver.data(0, *used) for used in driver.used(0)] == [b"abcd"]
        mail.run_loop()
        mail.run_machine()
        assert [driver.data(0, *used) for used in driver.used(0)] == [b"efgh"]

        # A reset meanwhile: the answer comes late, and goes nowhere.
        fill(driver, 4)
        mail.run_loop()
        os.write(writer, b"late")
        device.reset()
        while not mail.to_machine:
            await asyncio.sleep(0)
        driver.start(size=64)
        mail.run_machine()
        assert driver.used(0) == []

        # While the machine stands still nothing of it changes.
        fill(driver, 4)
        mail.run_loop()
        os.write(writer, b"fivesix!")
        driver.vm.clock.stop()
        while not mail.to_machine:
            await asyncio.sleep(0)
        mail.run_machine()
        assert driver.used(0) == []
        driver.vm.clock.start()
        driver.vm.pass_time(1)
        mail.run_loop()
        mail.run_machine()
        assert [driver.data(0, *used) for used in driver.used(0)] == [b"six!"]
        source.close()
        os.close(writer)

    asyncio.run(main())


def test_a_file_that_is_not_there() -> None:
    source = RngRandom(RngRandomProperties(filename="/nonexistent/generator"))
    with pytest.raises(
        GenericError, match=r"^Could not open '/nonexistent/generator': No such file or directory$"
    ):
        asyncio.run(source.complete())


def test_the_period_goes_on_after_loading() -> None:
    device, driver = make(VirtioRngOptions(max_bytes=10, period=1000))
    fill(driver, 64)
    driver.vm.pass_time(400_000_000)
    fill(driver, 64)
    saved = device.save()
    device.reset()
    device.load(saved)
    driver.vm.pass_time(599_000_000)
    assert driver.used(0) == []
    driver.vm.pass_time(1_000_000)
    assert [written for _, written in driver.used(0)] == [10]

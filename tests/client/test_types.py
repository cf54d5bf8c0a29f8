"""What a type checker makes of a program that uses the client: mypy reads this file, and complains where it is told otherwise.

An ignored error that mypy does not find is an error, too.
"""

from __future__ import annotations

from typing import assert_type

import pytest

from qemud.client import Client, Event, GenericError
from qemud.client.events import DeviceDeletedEvent, StopEvent
from qemud.client.types import ChardevBackendNull, ChardevCommon, CpuInfoFast, RunState, StatusInfo
from tests.client.support import emulator, run
from tests.programs import QEMUD


def test_what_a_checker_knows() -> None:
    async def test(address: str) -> None:
        async with Client.connect(address) as qmp:
            status = await qmp.query_status()
            assert_type(status, StatusInfo)
            assert_type(status.status, RunState)
            assert_type((await qmp.query_cpus_fast())[:0], list[CpuInfoFast])
            assert_type((await qmp.query_name()).name, str | None)
            await qmp.chardev_add(id="n", backend=ChardevBackendNull(data=ChardevCommon()))
            with pytest.raises(GenericError):
                await qmp.chardev_remove(id=5)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                await qmp.chardev_remove()  # type: ignore[call-arg]
            with pytest.raises(AttributeError):
                await qmp.chardev_removed(id="n")  # type: ignore[attr-defined]
            with qmp.events(StopEvent) as stops, qmp.events() as everything:
                await qmp.cont()
                await qmp.stop()
                assert_type(await stops.get(), StopEvent)
                assert_type(await everything.get(), Event)
            with qmp.events(DeviceDeletedEvent, where=lambda event: event.device == "a"):
                pass

    with emulator(QEMUD, "-machine", "none", "-S") as (_, address):
        run(test(address))

from __future__ import annotations

from qemud.machine.irq import Irq


def record() -> tuple[list[tuple[int, int]], Irq]:
    seen: list[tuple[int, int]] = []
    return seen, Irq(lambda n, level: seen.append((n, level)), 7)


def test_a_line_tells_its_number_and_a_level_of_0_or_1():
    seen, line = record()
    line.set(5)
    line.lower()
    line.raise_()
    line.pulse()
    line.set(0)
    assert seen == [(7, 1), (7, 0), (7, 1), (7, 1), (7, 0), (7, 0)]


def test_an_unconnected_line_takes_everything():
    line = Irq.nc()
    line.pulse()
    assert not line.connected
    assert record()[1].connected

"""The benches' arithmetic; their figures are no matter for tests."""

import pytest

from bench.table import Figure, Row, markdown, number, percentile


def test_ratios_and_absolute_figures_are_held_to_their_targets() -> None:
    ratio = Row("a", "A", "s", 0.95)
    assert Figure(ratio, [0.9, 5.0, 0.8], [1.0, 1.0, 0.1]).met()
    assert not Figure(ratio, [0.96], [1.0]).met()
    assert not Figure(ratio, [0.1], []).met(), "without QEMU beside it, nothing is shown"
    assert Figure(Row("b", "B", "/s", 15, at_least=True), [150.0], [10.0]).met()
    assert not Figure(Row("b", "B", "/s", 15, at_least=True), [149.0], [10.0]).met()
    assert Figure(Row("c", "C", "ms", 10, absolute=True), [10.0], []).met()
    assert not Figure(Row("c", "C", "ms", 10, absolute=True), [10.1], [100.0]).met()


def test_table() -> None:
    lines = markdown([Figure(Row("a", "boot", "s", 0.95), [1.2345], [2.0])]).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "boot",
        "1.23 s",
        "2 s",
        "0.617",
        "≤ 0.95",
        "yes",
    ]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (99.94, "99.9"), (0.01234, "0.0123"), (0, "0")]
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_percentile() -> None:
    hundred = [float(i) for i in range(1, 101)]
    assert percentile(hundred, 0.99) == 99
    assert percentile(hundred, 0.5) == 50
    assert percentile([7.0], 0.99) == 7
    assert percentile(hundred, 1) == 100

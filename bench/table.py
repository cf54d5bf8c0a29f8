"""Rows of the table of figures, what is asked of them, and how they are written."""

from __future__ import annotations

import operator
import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Row(NamedTuple):
    """One line of the table. `target` is held by the ratio qemud / QEMU, or with `absolute`, by qemud's own figure."""

    key: str
    title: str
    unit: str
    target: float
    at_least: bool = False
    absolute: bool = False

    def verdict(self, qemud: float, qemu: float | None) -> bool:
        """Whether the target is met."""
        compare: Callable[[float, float], bool] = operator.ge if self.at_least else operator.le
        if self.absolute:
            return compare(qemud, self.target)
        return qemu is not None and compare(qemud / qemu, self.target)

    def asked(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.target:g} {self.unit}" if self.absolute else f"{sign} {self.target:g}"


class Figure(NamedTuple):
    """A row with the samples of both programs."""

    row: Row
    qemud: Sequence[float]
    qemu: Sequence[float]

    def medians(self) -> tuple[float, float | None]:
        return statistics.median(self.qemud), statistics.median(self.qemu) if self.qemu else None

    def met(self) -> bool:
        return self.row.verdict(*self.medians())

    def cells(self) -> list[str]:
        qemud, qemu = self.medians()
        return [
            self.row.title,
            f"{number(qemud)} {self.row.unit}",
            "" if qemu is None else f"{number(qemu)} {self.row.unit}",
            "" if qemu is None else number(qemud / qemu),
            self.row.asked(),
            "yes" if self.met() else "**no**",
        ]


HEADINGS = ["what", "qemud", "QEMU", "ratio", "target", "met"]


def markdown(figures: Sequence[Figure]) -> str:
    """The table, aligned for those who read the source."""
    rows = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.2g}"


def percentile(samples: Sequence[float], part: float) -> float:
    """The smallest sample that at least `part` (0 to 1) of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]

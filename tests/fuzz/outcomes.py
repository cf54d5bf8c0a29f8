"""What came of an attack's tries, so that one that reaches nothing is seen to reach nothing."""

from __future__ import annotations

import re
import sys
from collections import Counter


class Outcomes:
    """Tries by what came of them: taken, or refused with a text.

    Names, numbers and places differ from try to try and are left out of the text.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.refused: Counter[str] = Counter()

    def take(self) -> None:
        """A try was taken."""
        self.taken += 1

    def refuse(self, text: str) -> None:
        """A try was refused, with a text."""
        assert text.strip()
        first = text.strip().partition("\n")[0]
        self.refused[re.sub(r"'[^']*'|\"[^\"]*\"|\S*\d\S*", "…", first)[-60:]] += 1

    def check(self, what: str, *, taken: float, kinds: int) -> None:
        """Fail unless this part of all tries was taken, and so many texts were seen; tell the figures."""
        count = self.taken + self.refused.total()
        lines = [f"{what}: {count} tries, {self.taken} taken, {len(self.refused)} kinds of refusal"]
        lines += [f"  {number:8} {text}" for text, number in self.refused.most_common(40)]
        sys.stdout.write("\n".join(lines) + "\n")
        assert self.taken >= taken * count, (self.taken, count, self.refused)
        assert len(self.refused) >= kinds, self.refused

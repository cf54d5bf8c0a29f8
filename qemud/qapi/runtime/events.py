"""What typed event emitters need: the function that takes an event's name and its data.

`qemud._generated.events.MODULE` has one function an event; each builds the wire's form of its data and hands it to the
`emit` it is given, which may be called from either thread if whoever made it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

EmitFunction: TypeAlias = Callable[[str, dict[str, Any] | None], None]
"""`emit(name, data)`: `data` is JSON-able builtins, or None for an event without data."""

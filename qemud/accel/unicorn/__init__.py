"""Written by the room's first commit."""

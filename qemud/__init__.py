"""qemud: an asyncio daemon that emulates machines and is driven by QMP.

The rooms of this package stand on floors, and imports go down only; ARCHITECTURE.md draws them.
"""

__version__ = "0.1.0"

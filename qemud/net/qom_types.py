"""The QOM types of this room, as data: see `qemud.qom.types`.  No class is imported here."""

from qemud.qom.types import TypeEntry

_FILTERS = "qemud.net.filters"

TYPES: tuple[TypeEntry, ...] = (
    TypeEntry(
        "netfilter",
        "object",
        f"{_FILTERS}.base:NetFilter",
        abstract=True,
        options="NetfilterProperties",
        interfaces=("user-creatable",),
    ),
    TypeEntry(
        "filter-buffer", "netfilter", f"{_FILTERS}.buffer:FilterBuffer", options="FilterBufferProperties"
    ),
    TypeEntry("filter-dump", "netfilter", f"{_FILTERS}.dump:FilterDump", options="FilterDumpProperties"),
    TypeEntry(
        "filter-mirror", "netfilter", f"{_FILTERS}.mirror:FilterMirror", options="FilterMirrorProperties"
    ),
    TypeEntry(
        "filter-redirector",
        "netfilter",
        f"{_FILTERS}.mirror:FilterRedirector",
        options="FilterRedirectorProperties",
    ),
)

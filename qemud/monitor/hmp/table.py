"""The commands: how each is written, and which function does it.

Names and help are the schema's (`HmpCommand`, `HmpInfo`); a test holds the two to the same names.  The functions' modules are
imported with their first command.

Source: QEMU 10.0, hmp-commands.hx and hmp-commands-info.hx, for names, arguments and how they are shown.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A row: `arguments` in the notation of `qemud.monitor.hmp.arguments`, `shown` what help shows in their place.

    `run` is a function of this package, `module:function`; `alias` is another name.
    """

    name: str
    arguments: str
    shown: str
    run: str
    alias: str = ""

    @property
    def title(self) -> str:
        """The name with the other one, as help and errors show it."""
        return f"{self.name}|{self.alias}" if self.alias else self.name


def _rows(*commands: Command) -> dict[str, Command]:
    """The commands by name and alias, in the order of their titles."""
    ordered = sorted(commands, key=lambda command: command.title)
    return {name: command for command in ordered for name in (command.name, command.alias) if name}


INFO = _rows(
    Command("chardev", "", "", "info:chardev"),
    Command("cpus", "", "", "info:cpus"),
    Command("history", "", "", "info:history"),
    Command("iothreads", "", "", "inventory:iothreads"),
    Command("irq", "", "", "inventory:irq"),
    Command("kvm", "", "", "info:kvm"),
    Command("memdev", "", "", "inventory:memdev"),
    Command("memory_size_summary", "", "", "info:memory_size_summary"),
    Command("mtree", "flatview:-f", "[-f]", "info:mtree"),
    Command("name", "", "", "info:name"),
    Command("numa", "", "", "inventory:numa"),
    Command("pic", "", "", "inventory:pic"),
    Command("qom-tree", "path:s?", "[path]", "info:qom_tree"),
    Command("qtree", "brief:-b", "[-b]", "info:qtree"),
    Command("ramblock", "", "", "inventory:ramblock"),
    Command("registers", "cpustate_all:-a,vcpu:i?", "[-a|vcpu]", "info:registers"),
    Command("roms", "", "", "inventory:roms"),
    Command("stats", "target:s,names:s?,provider:s?", "target [names] [provider]", "inventory:stats"),
    Command("status", "", "", "info:status"),
    Command("trace-events", "name:s?", "[name]", "info:trace_events"),
    Command("uuid", "", "", "info:uuid"),
    Command("version", "", "", "info:version"),
)
"""What can stand behind `info`."""

COMMANDS = _rows(
    Command("chardev-add", "args:s", "args", "chardevs:add"),
    Command("chardev-change", "id:s,args:s", "id args", "chardevs:change"),
    Command("chardev-remove", "id:s", "id", "chardevs:remove"),
    Command("chardev-send-break", "id:s", "id", "chardevs:send_break"),
    Command("cont", "", "", "machine:cont", "c"),
    Command("cpu", "index:i", "index", "machine:cpu"),
    Command("device_add", "device:O", "driver[,prop=value][,...]", "objects:device_add"),
    Command("device_del", "id:s", "device", "objects:device_del"),
    Command("dumpdtb", "filename:F", "filename", "machine:dumpdtb"),
    Command("gva2gpa", "addr:l", "addr", "memory:gva2gpa"),
    Command("help", "name:S?", "[cmd]", "info:help_", "?"),
    Command("info", "item:s?", "[subcommand]", "info:help_info"),
    Command("log", "items:s", "item1[,...]", "machine:log"),
    Command("logfile", "filename:F", "filename", "machine:logfile"),
    Command("memsave", "val:l,size:i,filename:s", "addr size file", "memory:memsave"),
    Command("nmi", "", "", "machine:nmi"),
    Command("object_add", "object:S", "[qom-type=]type,id=str[,prop=value][,...]", "objects:object_add"),
    Command("object_del", "id:s", "id", "objects:object_del"),
    Command("pmemsave", "val:l,size:i,filename:s", "addr size file", "memory:pmemsave"),
    Command("print", "fmt:/,val:l", "/fmt expr", "memory:print_", "p"),
    Command("qom-get", "path:s,property:s", "path property", "objects:qom_get"),
    Command("qom-list", "path:s?", "path", "objects:qom_list"),
    Command("qom-set", "json:-j,path:s,property:s,value:S", "[-j] path property value", "objects:qom_set"),
    Command("quit", "", "", "machine:quit_", "q"),
    Command("ringbuf_read", "device:s,size:i", "device size", "chardevs:ringbuf_read"),
    Command("ringbuf_write", "device:s,data:s", "device data", "chardevs:ringbuf_write"),
    Command("stop", "", "", "machine:stop", "s"),
    Command("sum", "start:i,size:i", "addr size", "memory:sum_"),
    Command("system_powerdown", "", "", "machine:system_powerdown"),
    Command("system_reset", "", "", "machine:system_reset"),
    Command("system_wakeup", "", "", "machine:system_wakeup"),
    Command("trace-event", "name:s,option:b", "name on|off", "machine:trace_event"),
    Command("x", "fmt:/,addr:l", "/fmt addr", "memory:dump_virtual"),
    Command("xp", "fmt:/,addr:l", "/fmt addr", "memory:dump_physical"),
)
"""All commands, by name and alias."""

SUBCOMMANDS = {"info": INFO}
"""The tables behind commands that have one."""

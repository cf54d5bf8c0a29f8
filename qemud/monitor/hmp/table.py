"""The commands: how each is written, and which function does it.

Names and help are the schema's (`HmpCommand`, `HmpInfo`); a test holds the two to the same names.  The functions' modules are
imported with their first command.

Source: QEMU 10.0, hmp-commands.hx and hmp-commands-info.hx, for names, arguments and how they are shown.
"""

from __future__ import annotations

from typing import NamedTuple

from qemud._generated.table import COMMANDS as QMP_COMMANDS
from qemud.qapi.runtime.table import READY


class Command(NamedTuple):
    """A row: `qmp` is the QMP command that it stands for, if any, and `run` a function of this package, `module:function`.

    `arguments` is in the notation of `qemud.monitor.hmp.arguments`, `shown` what help shows in their place; `alias` is another name.
    """

    name: str
    qmp: str
    run: str
    arguments: str = ""
    shown: str = ""
    alias: str = ""

    @property
    def title(self) -> str:
        """The name with the other one, as help and errors show it."""
        return f"{self.name}|{self.alias}" if self.alias else self.name

    def is_available(self, phase: str) -> bool:
        """Whether it may be used in a phase of the machine's making; when all is made, whoever runs it says more."""
        return phase == READY or not self.qmp or phase in QMP_COMMANDS[self.qmp].phases


def _rows(*commands: Command) -> dict[str, Command]:
    """The commands by name and alias, in the order of their titles."""
    ordered = sorted(commands, key=lambda command: command.title)
    return {name: command for command in ordered for name in (command.name, command.alias) if name}


INFO = _rows(
    Command("balloon", "query-balloon", "inventory:balloon_info"),
    Command("block", "query-block", "block:info", "nodes:-n,verbose:-v,device:s?", "[-n] [-v] [device]"),
    Command("block-jobs", "query-block-jobs", "jobs:info"),
    Command("blockstats", "query-blockstats", "block:stats"),
    Command("chardev", "query-chardev", "info:chardev"),
    Command("cpus", "query-cpus-fast", "info:cpus"),
    Command("dump", "query-dump", "memory:dump_info"),
    Command("history", "", "info:history"),
    Command("hotpluggable-cpus", "query-hotpluggable-cpus", "inventory:hotpluggable_cpus"),
    Command("iothreads", "query-iothreads", "inventory:iothreads"),
    Command("irq", "x-query-irq", "inventory:irq"),
    Command("kvm", "query-kvm", "info:kvm"),
    Command("memdev", "query-memdev", "inventory:memdev"),
    Command("memory-devices", "query-memory-devices", "inventory:memory_devices"),
    Command("memory_size_summary", "query-memory-size-summary", "info:memory_size_summary"),
    Command("migrate", "query-migrate", "migration:info"),
    Command("migrate_capabilities", "query-migrate-capabilities", "migration:capabilities"),
    Command("migrate_parameters", "query-migrate-parameters", "migration:parameters"),
    Command("mtree", "x-query-mtree", "info:mtree", "flatview:-f", "[-f]"),
    Command("name", "query-name", "info:name"),
    Command("network", "x-query-network", "networks:info"),
    Command("numa", "x-query-numa", "inventory:numa"),
    Command("pci", "query-pci", "pci:info"),
    Command("pic", "x-query-interrupt-controllers", "inventory:pic"),
    Command("qom-tree", "qom-list", "info:qom_tree", "path:s?", "[path]"),
    Command("qtree", "x-query-qtree", "info:qtree", "brief:-b", "[-b]"),
    Command("ramblock", "x-query-ramblock", "inventory:ramblock"),
    Command("registers", "x-query-registers", "info:registers", "cpustate_all:-a,vcpu:i?", "[-a|vcpu]"),
    Command("roms", "x-query-roms", "inventory:roms"),
    Command("snapshots", "x-query-snapshots", "snapshots:info"),
    Command(
        "stats",
        "query-stats",
        "inventory:stats",
        "target:s,names:s?,provider:s?",
        "target [names] [provider]",
    ),
    Command("status", "query-status", "info:status"),
    Command("trace-events", "trace-event-get-state", "info:trace_events", "name:s?", "[name]"),
    Command("usernet", "x-query-usernet", "networks:usernet"),
    Command("uuid", "query-uuid", "info:uuid"),
    Command("version", "query-version", "info:version"),
    Command("virtio", "x-query-virtio", "virtio:info"),
    Command(
        "virtio-queue-element",
        "x-query-virtio-queue-element",
        "virtio:queue_element",
        "path:s,queue:i,index:i?",
        "path queue [index]",
    ),
    Command(
        "virtio-queue-status",
        "x-query-virtio-queue-status",
        "virtio:queue_status",
        "path:s,queue:i",
        "path queue",
    ),
    Command("virtio-status", "x-query-virtio-status", "virtio:status", "path:s", "path"),
)
"""What can stand behind `info`."""

COMMANDS = _rows(
    Command(
        "announce_self",
        "announce-self",
        "networks:announce_self",
        "interfaces:s?,id:s?",
        "[interfaces] [id]",
    ),
    Command("balloon", "balloon", "inventory:balloon", "value:M", "target"),
    Command("block_job_cancel", "block-job-cancel", "jobs:cancel", "force:-f,device:s", "[-f] device"),
    Command("block_job_complete", "block-job-complete", "jobs:complete", "device:s", "device"),
    Command("block_job_pause", "block-job-pause", "jobs:pause", "device:s", "device"),
    Command("block_job_resume", "block-job-resume", "jobs:resume", "device:s", "device"),
    Command(
        "block_job_set_speed", "block-job-set-speed", "jobs:set_speed", "device:s,speed:o", "device speed"
    ),
    Command("block_resize", "block_resize", "block:resize", "device:s,size:o", "device size"),
    Command(
        "block_stream", "block-stream", "jobs:stream", "device:s,speed:o?,base:s?", "device [speed [base]]"
    ),
    Command(
        "change",
        "blockdev-change-medium",
        "block:change",
        "device:s,force:-f,target:F,arg:s?,read-only-mode:s?",
        "device [-f] filename [format [read-only-mode]]",
    ),
    Command("chardev-add", "chardev-add", "chardevs:add", "args:s", "args"),
    Command("chardev-change", "chardev-change", "chardevs:change", "id:s,args:s", "id args"),
    Command("chardev-remove", "chardev-remove", "chardevs:remove", "id:s", "id"),
    Command("chardev-send-break", "chardev-send-break", "chardevs:send_break", "id:s", "id"),
    Command("closefd", "closefd", "descriptors:closefd", "fdname:s", "closefd name"),
    Command("cont", "cont", "machine:cont", alias="c"),
    Command("cpu", "query-cpus-fast", "machine:cpu", "index:i", "index"),
    Command("delvm", "x-delvm", "snapshots:delete", "name:s", "tag"),
    Command("device_add", "device_add", "objects:device_add", "device:O", "driver[,prop=value][,...]"),
    Command("device_del", "device_del", "objects:device_del", "id:s", "device"),
    Command(
        "drive_backup",
        "drive-backup",
        "jobs:backup",
        "reuse:-n,full:-f,compress:-c,device:s,target:s,format:s?",
        "[-n] [-f] [-c] device target [format]",
    ),
    Command(
        "drive_mirror",
        "drive-mirror",
        "jobs:mirror",
        "reuse:-n,full:-f,device:s,target:s,format:s?",
        "[-n] [-f] device target [format]",
    ),
    Command(
        "dump-guest-memory",
        "dump-guest-memory",
        "memory:dump_guest_memory",
        "paging:-p,detach:-d,zlib:-z,raw:-R,filename:F,begin:l?,length:l?",
        "[-p] [-d] [-z] [-R] filename [begin length]",
    ),
    Command("dumpdtb", "dumpdtb", "machine:dumpdtb", "filename:F", "filename"),
    Command("eject", "eject", "block:eject", "force:-f,device:s", "[-f] device"),
    Command("exit_preconfig", "x-exit-preconfig", "machine:exit_preconfig"),
    Command("getfd", "getfd", "descriptors:getfd", "fdname:s", "getfd name"),
    Command("gva2gpa", "x-translate-address", "memory:gva2gpa", "addr:l", "addr"),
    Command("help", "", "info:help_", "name:S?", "[cmd]", alias="?"),
    Command(
        "hostfwd_add",
        "x-hostfwd-add",
        "networks:hostfwd_add",
        "arg1:s,arg2:s?",
        "[netdev_id] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
    ),
    Command(
        "hostfwd_remove",
        "x-hostfwd-remove",
        "networks:hostfwd_remove",
        "arg1:s,arg2:s?",
        "[netdev_id] [tcp|udp]:[hostaddr]:hostport",
    ),
    Command("info", "", "info:help_info", "item:s?", "[subcommand]"),
    Command("loadvm", "x-loadvm", "snapshots:load", "name:s", "tag"),
    Command("log", "x-set-log", "machine:log", "items:s", "item1[,...]"),
    Command("logfile", "x-set-log", "machine:logfile", "filename:F", "filename"),
    Command("memsave", "memsave", "memory:memsave", "val:l,size:i,filename:s", "addr size file"),
    Command(
        "netdev_add",
        "netdev_add",
        "networks:add",
        "netdev:S",
        "[user|tap|socket|stream|dgram|hubport],id=str[,prop=value][,...]",
    ),
    Command("netdev_del", "netdev_del", "networks:remove", "id:s", "id"),
    Command("nmi", "inject-nmi", "machine:nmi"),
    Command(
        "object_add",
        "object-add",
        "objects:object_add",
        "object:S",
        "[qom-type=]type,id=str[,prop=value][,...]",
    ),
    Command("object_del", "object-del", "objects:object_del", "id:s", "id"),
    Command("pmemsave", "pmemsave", "memory:pmemsave", "val:l,size:i,filename:s", "addr size file"),
    Command("print", "", "memory:print_", "fmt:/,val:l", "/fmt expr", alias="p"),
    Command("qom-get", "qom-get", "objects:qom_get", "path:s,property:s", "path property"),
    Command("qom-list", "qom-list", "objects:qom_list", "path:s?", "path"),
    Command(
        "qom-set",
        "qom-set",
        "objects:qom_set",
        "json:-j,path:s,property:s,value:S",
        "[-j] path property value",
    ),
    Command("quit", "quit", "machine:quit_", alias="q"),
    Command("ringbuf_read", "ringbuf-read", "chardevs:ringbuf_read", "device:s,size:i", "device size"),
    Command("ringbuf_write", "ringbuf-write", "chardevs:ringbuf_write", "device:s,data:s", "device data"),
    Command("migrate", "migrate", "migration:migrate", "detach:-d,resume:-r,uri:s", "[-d] [-r] uri"),
    Command("migrate_cancel", "migrate_cancel", "migration:cancel"),
    Command("migrate_continue", "migrate-continue", "migration:go_on", "state:s", "state"),
    Command("migrate_incoming", "migrate-incoming", "migration:incoming", "uri:s", "uri"),
    Command(
        "migrate_set_capability",
        "migrate-set-capabilities",
        "migration:set_capability",
        "capability:s,state:b",
        "capability state",
    ),
    Command(
        "migrate_set_parameter",
        "migrate-set-parameters",
        "migration:set_parameter",
        "parameter:s,value:s",
        "parameter value",
    ),
    Command("savevm", "x-savevm", "snapshots:save", "name:s?", "tag"),
    Command("set_link", "set_link", "networks:set_link", "name:s,up:b", "name on|off"),
    Command(
        "snapshot_blkdev",
        "blockdev-snapshot-sync",
        "jobs:snapshot",
        "reuse:-n,device:s,snapshot-file:s?,format:s?",
        "[-n] device [new-image-file] [format]",
    ),
    Command(
        "snapshot_blkdev_internal",
        "blockdev-snapshot-internal-sync",
        "jobs:snapshot_internal",
        "device:s,name:s",
        "device name",
    ),
    Command(
        "snapshot_delete_blkdev_internal",
        "blockdev-snapshot-delete-internal-sync",
        "jobs:delete_internal",
        "device:s,name:s,id:s?",
        "device name [id]",
    ),
    Command("stop", "stop", "machine:stop", alias="s"),
    Command("sum", "x-read-memory", "memory:sum_", "start:i,size:i", "addr size"),
    Command("system_powerdown", "system_powerdown", "machine:system_powerdown"),
    Command("system_reset", "system_reset", "machine:system_reset"),
    Command("system_wakeup", "system_wakeup", "machine:system_wakeup"),
    Command("trace-event", "trace-event-set-state", "machine:trace_event", "name:s,option:b", "name on|off"),
    Command(
        "watchdog_action",
        "watchdog-set-action",
        "machine:watchdog_action",
        "action:s",
        "[reset|shutdown|poweroff|pause|debug|none|inject-nmi]",
    ),
    Command("x", "x-read-memory", "memory:dump_virtual", "fmt:/,addr:l", "/fmt addr"),
    Command("xp", "x-read-memory", "memory:dump_physical", "fmt:/,addr:l", "/fmt addr"),
)
"""All commands, by name and alias."""

SUBCOMMANDS = {"info": INFO}
"""The tables behind commands that have one."""

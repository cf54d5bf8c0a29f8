"""Command lines at random: options with arguments that are right, in any order and number."""

from __future__ import annotations

from hypothesis import strategies as st

from qemud.qapi.runtime.qemuopts import split

IDS = st.from_regex(r"[a-z][a-z0-9._-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters='"\n\r\0', exclude_categories=["Cs"]), max_size=12)
"""What the INI format can hold."""
SIZES = st.one_of(st.integers(0, 1 << 30).map(str), st.sampled_from(["64M", "0x1000", "1.5G"]))


def _escaped(text: str) -> str:
    return text.replace(",", ",,")


def _pairs(**values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.fixed_dictionaries({}, optional=dict(values)).map(
        lambda given: ",".join(f"{key.replace('_', '-')}={_escaped(value)}" for key, value in given.items())
    )


ON_OFF = st.sampled_from(["on", "off"])
ARGUMENTS: dict[str, st.SearchStrategy[str]] = {
    "machine": st.sampled_from(["virt", "none", "virt-10.0,aclint=on", "type=virt,memory-backend=m"]),
    "accel": st.sampled_from(["tcg", "accel=tcg", "tcg,tb-size=8,thread=multi"]),
    "cpu": st.sampled_from(["rv64", "max"]),
    "smp": st.sampled_from(["1", "cpus=1,sockets=1", "1,maxcpus=1"]),
    "m": SIZES,
    "kernel": TEXTS,
    "append": TEXTS,
    "bios": TEXTS,
    "device": st.one_of(
        IDS.map(lambda name: f"loader,addr=4096,id={name}"),
        IDS.map(lambda name: f'{{"driver": "loader", "id": "{name}", "addr": 4096, "data-be": true}}'),
    ),
    "object": st.builds(lambda name, size: f"memory-backend-ram,id={name},size={size}", IDS, SIZES),
    "chardev": st.one_of(
        IDS.map(lambda name: f"null,id={name}"),
        st.builds(lambda name, path: f"file,id={name},path={_escaped(path)},append=on", IDS, TEXTS),
        IDS.map(lambda name: f"socket,id={name},path=x,server,nowait"),
    ),
    "drive": st.one_of(
        st.builds(lambda name, file: f"file={_escaped(file)},id={name},if=none,format=raw", IDS, TEXTS),
        st.builds(lambda file: f"if=virtio,file.driver=file,file.filename={_escaped(file)}", TEXTS),
    ),
    "blockdev": st.one_of(
        IDS.map(lambda name: f"null-co,node-name={name},size=4096"),
        IDS.map(lambda name: f'{{"driver": "raw", "node-name": "{name}", "file": {{"driver": "null-co"}}}}'),
    ),
    "netdev": st.one_of(
        IDS.map(lambda name: f"user,id={name},restrict=on,hostfwd=tcp::0-:22"),
        IDS.map(lambda name: f"user,id={name},hostfwd=tcp::0-:22,hostfwd=udp::0-:53"),
        st.builds(
            lambda name, path: f"stream,id={name},server=on,addr.type=unix,addr.path={_escaped(path)}",
            IDS,
            TEXTS,
        ),
        IDS.map(lambda name: f'{{"type": "user", "id": "{name}", "restrict": true}}'),
        IDS.map(lambda name: f'{{"type": "dgram", "id": "{name}", "local": {{"type": "fd", "str": "5"}}}}'),
    ),
    "nic": st.sampled_from(["none", "user", "user,model=virtio", "type=user,id=n"]),
    "net": st.sampled_from(["none", "nic", "nic,model=virtio", "user,id=u"]),
    "fw_cfg": st.one_of(
        TEXTS.map(lambda text: f"name=opt/x,string={_escaped(text)}"),
        TEXTS.map(lambda text: f"opt/y,file={_escaped(text)}"),
    ),
    "serial": st.sampled_from(["null", "stdio", "none", "unix:/x,server,nowait"]),
    "mon": st.builds(lambda name, of: f"chardev={of},id={name},mode=control", IDS, IDS),
    "qmp": st.sampled_from(["stdio", "unix:x,server=on"]),
    "name": _pairs(guest=TEXTS, process=TEXTS, debug_threads=ON_OFF),
    "uuid": st.uuids().map(str),
    "action": _pairs(reboot=st.sampled_from(["reset", "shutdown"]), panic=st.sampled_from(["none", "pause"])),
    "watchdog-action": st.sampled_from(["pause", "none"]),
    "icount": _pairs(shift=st.sampled_from(["0", "3", "10"]), sleep=ON_OFF),
    "rtc": _pairs(base=st.just("utc"), clock=st.just("host")),
    "msg": _pairs(timestamp=ON_OFF),
    "global": st.one_of(
        TEXTS.map(lambda value: f"serial-mm.baudbase={value}"),
        TEXTS.map(lambda value: f"driver=serial-mm,property=baudbase,value={_escaped(value)}"),
    ),
    "display": st.just("none"),
    "pidfile": TEXTS,
}
FLAGS = (
    "nographic",
    "nodefaults",
    "no-user-config",
    "S",
    "no-reboot",
    "no-shutdown",
    "preconfig",
    "daemonize",
)

OCCURRENCES = st.one_of(
    st.sampled_from(FLAGS).map(lambda name: [f"-{name}"]),
    st.sampled_from(sorted(ARGUMENTS)).flatmap(
        lambda name: ARGUMENTS[name].map(lambda text: [f"-{name}", text])
    ),
)
COMMAND_LINES = st.lists(OCCURRENCES, max_size=8).map(lambda parts: [word for part in parts for word in part])


def parts(text: str) -> list[str]:
    """An argument's parts, for comparison where order does not matter."""
    return sorted(split(text))

"""`info virtio` and its kin, in the layout of QEMU 10.0 (hw/virtio/virtio-hmp-cmds.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell

_FIELDS = (
    ("device_id", "device-id"),
    ("vhost_started", "vhost-started"),
    ("bus_name", "bus-name"),
    ("broken", "broken"),
    ("disabled", "disabled"),
    ("disable_legacy_check", "disable-legacy-check"),
    ("started", "started"),
    ("use_started", "use-started"),
    ("start_on_kick", "start-on-kick"),
    ("use_guest_notifier_mask", "use-guest-notifier-mask"),
    ("vm_running", "vm-running"),
    ("num_vqs", "num-vqs"),
    ("queue_sel", "queue-sel"),
    ("isr", "isr"),
    ("endianness", "device-endian"),
)
_QUEUE_FIELDS = (
    ("device_name", "name"),
    ("queue_index", "queue-index"),
    ("inuse", "inuse"),
    ("used_idx", "used-idx"),
    ("signalled_used", "signalled-used"),
    ("signalled_used_valid", "signalled-used-valid"),
    ("last_avail_idx", "last-avail-idx"),
    ("shadow_avail_idx", "shadow-avail-idx"),
)
_RING_FIELDS = (
    ("num", "vring-num", ""),
    ("num_default", "vring-num-default", ""),
    ("align", "vring-align", ""),
    ("desc", "vring-desc", "#018x"),
    ("avail", "vring-avail", "#018x"),
    ("used", "vring-used", "#018x"),
)


async def info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info virtio`."""
    for device in await shell.qmp("x-query-virtio"):
        shell.print(f"{device['path']} [{device['name']}]\n")


async def status(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info virtio-status`."""
    path = arguments["path"]
    answer = await shell.qmp("x-query-virtio-status", {"path": path})
    # The C library's word for a name that there is not.
    answer["bus-name"] = answer["bus-name"] or "(null)"
    lines = [f"{path}:", f"  {'device_name:':24} {answer['name']} "]
    lines += [f"  {title + ':':24} {_value(answer[key])}" for title, key in _FIELDS]
    lines += ["  status:", *_sentences(answer["status"]["statuses"])]
    if unknown := answer["status"].get("unknown-statuses"):
        lines.append(f"  unknown-statuses({unknown:#018x})")
    for title, key in (
        ("Guest", "guest-features"),
        ("Host", "host-features"),
        ("Backend", "backend-features"),
    ):
        features = answer[key]
        lines += [f"  {title} features:", *_sentences(features["transports"])]
        if own := features["dev-features"]:
            lines += _sentences(own)
        if unknown := features.get("unknown-dev-features"):
            lines.append(f"  unknown-features({unknown:#018x})")
    shell.print("".join(f"{line}\n" for line in lines))


async def queue_status(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info virtio-queue-status`."""
    path = arguments["path"]
    answer = await shell.qmp("x-query-virtio-queue-status", {"path": path, "queue": arguments["queue"]})
    lines = [f"{path}:"]
    lines += [f"  {title + ':':21} {_value(answer[key])}" for title, key in _QUEUE_FIELDS]
    lines.append("  VRing:")
    lines += [f"    {title + ':':13} {answer[key]:{layout}}" for title, key, layout in _RING_FIELDS]
    shell.print("".join(f"{line}\n" for line in lines))


async def queue_element(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info virtio-queue-element`."""
    path = arguments["path"]
    wanted = {"path": path, "queue": arguments["queue"]}
    if arguments.get("index") is not None:
        wanted["index"] = arguments["index"]
    answer = await shell.qmp("x-query-virtio-queue-element", wanted)
    avail, used = answer["avail"], answer["used"]
    shell.print(
        f"{path}:\n"
        f"  device_name: {answer['name']}\n"
        f"  index:   {answer['index']}\n"
        "  desc:\n"
        "    descs:\n"
        f"{_descriptors(answer['descs'])}\n"
        "  avail:\n"
        f"    flags: {avail['flags']}\n"
        f"    idx:   {avail['idx']}\n"
        f"    ring:  {avail['ring']}\n"
        "  used:\n"
        f"    flags: {used['flags']}\n"
        f"    idx:   {used['idx']}\n"
    )


def _descriptors(descriptors: list[dict[str, Any]]) -> str:
    lines = []
    for each in descriptors:
        flags = f" ({', '.join(each['flags'])})" if each["flags"] else ""
        lines.append(f"        addr {each['addr']:#x} len {each['len']}{flags}")
    return ",\n".join(lines)


def _sentences(sentences: list[str]) -> list[str]:
    return ",\n".join(f"\t{sentence}" for sentence in sentences).split("\n")


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""The command line: from words to a `CommandLine` of the schema.

    line = parse(["-machine", "virt", "-m", "256", "-S"])
    line.m.size                       -> 268435456

`OPTIONS` says for each option how its argument is written; what it means, its parameters and its help are the schema's
(`qapi/options.json`), and a test holds the two to the same names.  Options whose parameters depend on what they name
(`-device`, `-chardev`, …) stay text here and are read by the room they belong to, where `at` puts the option in front of what
is wrong, as QEMU does.

Source: QEMU 10.0, system/vl.c and qemu-options.hx.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from qemud._generated.types.options import CommandLine, MemoryOptions
from qemud.logs import report
from qemud.qapi.names import python_name
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.errors import GenericError, QmpError
from qemud.qapi.runtime.qemuopts import HintedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

MEBIBYTE = 1 << 20
_INT_MAX = (1 << 31) - 1
_STANDARD_ERROR = 2


Warn: TypeAlias = "Callable[[str], None]"
"""Takes the text of a warning."""


class UsageError(Exception):
    """What is wrong with the command line, as it is printed behind the program's name."""


class HelpWanted(UsageError):
    """Somebody asks what an option takes, which is told instead of doing anything; `option` is its name."""

    def __init__(self, option: str) -> None:
        super().__init__(f"-{option}: help was asked for")
        self.option = option


class Option:
    """How the argument of one option is written.

    `read` turns it into a value and is given who takes warnings; None for an option without an argument.  `many` options
    collect a list, of those that can be merged later ones add to earlier ones; `alias` is the option that this is another name for, or
    for one parameter of it, `key`.
    """

    __slots__ = ("alias", "key", "many", "merges", "read")

    def __init__(
        self,
        read: Callable[[str, Warn], Any] | None = None,
        *,
        many: bool = False,
        alias: str = "",
        key: str = "",
        merges: bool = False,
    ) -> None:
        self.read = read
        self.many = many
        self.alias = alias
        self.key = key
        self.merges = merges


def read_opts(struct: str, implied: str | None = None) -> Callable[[str, Warn], Any]:
    """A reader of older `key=value` syntax into a struct of the schema."""

    def read(text: str, warn: Warn) -> Any:
        from qemud._generated.types import options
        from qemud.qapi.runtime.keyval import parse_keyval_type

        values = qemuopts.parse(text, implied=implied, warn=warn)
        known = getattr(options, struct).__struct_encode_fields__
        for name in values:
            if name not in known:
                raise GenericError(f"Invalid parameter '{name}'")
        return parse_keyval_type(struct, values)

    return read


def _json_or_keyval(struct: str, implied: str) -> Callable[[str, Warn], Any]:
    """A reader of JSON, or of the newer `key=value` syntax, into a struct of the schema."""

    def read(text: str, _warn: Warn) -> Any:
        from qemud.monitor.qmp.framing import parse_option
        from qemud.qapi.runtime.check import parse_type
        from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type

        if text.startswith("{"):
            return parse_type(struct, parse_option(text))
        return parse_keyval_type(struct, parse_keyval(text, implied))

    return read


_BOOT_ELSEWHERE = ("order", "once", "splash", "splash-time", "reboot-timeout")
"""Parameters of `-boot` that other machines have, and QEMU's `virt` takes and does nothing about."""


def _check_boot_devices(text: str) -> None:
    """Raise UsageError unless these are letters of boot devices, each once."""
    for index, letter in enumerate(text):
        if not "a" <= letter <= "p":
            raise UsageError(f"Invalid boot device '{letter}'")
        if letter in text[:index]:
            raise UsageError(f"Boot device '{letter}' was given twice")


def _nobody_told(name: str, value: object) -> UsageError:
    return UsageError(
        f"-boot {name}={value}: no firmware of this machine would be told; "
        "what is booted is what -kernel and -bios name"
    )


def _boot(text: str, _warn: Warn) -> Any:
    from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type

    try:
        values = parse_keyval(text, "order")
        for name in ("order", "once"):
            if name in values:
                _check_boot_devices(str(values[name]))
        for name in _BOOT_ELSEWHERE:
            if name in values:
                raise _nobody_told(name, values[name])
        options = parse_keyval_type("BootConfiguration", values, "boot")
    except QmpError as error:
        # It is a property of the machine, and what is wrong is said of that, as QEMU does.
        raise UsageError(str(error)) from None
    if options.menu:
        raise _nobody_told("menu", "on")
    return options


def _overcommit(text: str, warn: Warn) -> Any:
    from qemud._generated.types.options import MemLock

    values = qemuopts.parse(text, warn=warn)
    if values.get("mem-lock", "off") not in {mode.value for mode in MemLock}:
        raise GenericError("parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'")
    return read_opts("OvercommitOptions")(text, lambda _warning: None)


def _display(text: str, _warn: Warn) -> Any:
    from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type

    return parse_keyval_type("DisplayOptions", parse_keyval(text, "type"))


def _memory(text: str, warn: Warn) -> MemoryOptions:
    values = qemuopts.parse(text, implied="size", warn=warn)
    kinds: dict[str, Callable[[str, str], Any]] = {
        "size": lambda name, value: qemuopts.size(name, value, default_suffix="M"),
        "slots": qemuopts.number,
        "maxmem": qemuopts.size,
    }
    return MemoryOptions(**qemuopts.convert(values, kinds))


def _smp(text: str, _warn: Warn) -> Any:
    from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type

    values = parse_keyval(text, "cpus")
    try:
        return parse_keyval_type("SMPConfiguration", values)
    except QmpError as error:
        # The machine's property `smp` is what is wrong, not the option, as QEMU sees it.
        raise UsageError(str(error).replace("Parameter '", "Parameter 'smp.", 1)) from None


def _rtc(text: str, warn: Warn) -> Any:
    from qemud._generated.types.options import RtcClockSource, RtcOptions
    from qemud.daemon.host import rtc_offset

    values = qemuopts.parse(text, warn=warn)
    for name in values:
        if name not in RtcOptions.__struct_encode_fields__:
            raise GenericError(f"Invalid parameter '{name}'")
    clock = values.get("clock", RtcClockSource.HOST.value)
    if clock not in {source.value for source in RtcClockSource}:
        raise UsageError(f"invalid option value '{clock}'")
    options = RtcOptions(base=values.get("base", "utc"))
    rtc_offset(options)
    return options


def _icount(text: str, warn: Warn) -> Any:
    from qemud.daemon.icount import read

    return read(text, warn)


def _global(text: str, warn: Warn) -> Any:
    driver, dot, rest = text.partition(".")
    name, equals, value = rest.partition("=")
    if dot and equals and "=" not in driver and "," not in driver + name:
        from qemud._generated.types.options import GlobalProperty

        return GlobalProperty(driver=driver, property=name, value=value)
    values = qemuopts.parse(text)
    if values.keys() < {"driver", "property", "value"}:
        raise GenericError("options 'driver', 'property', and 'value' are required")
    return read_opts("GlobalProperty")(text, warn)


def _uuid(text: str, _warn: Warn) -> str:
    import uuid

    try:
        parsed = uuid.UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or len(text) != 36:
        raise GenericError("failed to parse UUID string: wrong format")
    return str(parsed)


def _add_fd(text: str, warn: Warn) -> Any:
    """A descriptor that this process was started with; all that can be wrong with it is told here."""
    import fcntl

    from qemud._generated.types.options import AddFdOptions

    def number_or_none(name: str, text: str) -> int:
        return -1 if text[:1] == "-" and text[1:].isdecimal() else qemuopts.number(name, text)

    kinds = {"fd": number_or_none, "set": number_or_none, "opaque": qemuopts.text}
    values = qemuopts.convert(qemuopts.parse(text, warn=warn), kinds)
    fd, number = values.get("fd", -1), values.get("set", -1)
    if not 0 <= fd <= _INT_MAX:
        raise GenericError("fd option is required and must be non-negative")
    if fd <= _STANDARD_ERROR:
        raise GenericError("fd cannot be a standard I/O stream")
    try:
        inherited = not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        inherited = False
    if not inherited:
        raise GenericError("fd is not valid or already in use")
    if not 0 <= number < 1 << 63:
        raise GenericError("set option is required and must be non-negative")
    return AddFdOptions(fd=fd, set=number, opaque=values.get("opaque"))


def _trace(text: str, warn: Warn) -> Any:
    """Which events to trace; unknown ones are only warned of, as in QEMU."""
    options = read_opts("TraceOptions", "enable")(text, warn)
    if options.enable is not None and options.enable not in qemuopts.HELP:
        from qemud.debug.trace import is_known

        if not is_known(options.enable):
            warn(f"trace event '{options.enable.removeprefix('-')}' does not exist")
    return options


def _compat(text: str, _warn: Warn) -> Any:
    from qemud.qapi.runtime.check import parse_type
    from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type

    if text.startswith("{"):
        from qemud.monitor.qmp.framing import parse_option

        return parse_type("CompatPolicy", parse_option(text))
    return parse_keyval_type("CompatPolicy", parse_keyval(text))


def _text(text: str, _warn: Warn) -> str:
    return text


FLAG = Option()
TEXT = Option(_text)
TEXTS = Option(_text, many=True)

OPTIONS: dict[str, Option] = {
    "help": FLAG,
    "h": Option(alias="help"),
    "version": FLAG,
    "machine": TEXT,
    "M": Option(_text, alias="machine"),
    "accel": TEXTS,
    "cpu": TEXT,
    "smp": Option(_smp),
    "m": Option(_memory),
    "kernel": TEXT,
    "initrd": TEXT,
    "append": TEXT,
    "bios": TEXT,
    "dtb": TEXT,
    "fw_cfg": TEXTS,
    "device": TEXTS,
    "object": TEXTS,
    "chardev": TEXTS,
    "blockdev": TEXTS,
    "drive": TEXTS,
    "netdev": TEXTS,
    "nic": TEXTS,
    "net": TEXTS,
    "hda": TEXT,
    "hdb": TEXT,
    "hdc": TEXT,
    "hdd": TEXT,
    "cdrom": TEXT,
    "snapshot": FLAG,
    "serial": TEXTS,
    "monitor": TEXTS,
    "mon": Option(read_opts("MonitorOptions", "chardev"), many=True),
    "qmp": TEXTS,
    "qmp-pretty": TEXTS,
    "display": Option(_display),
    "nographic": FLAG,
    "nodefaults": FLAG,
    "no-user-config": FLAG,
    "name": Option(read_opts("NameOptions", "guest")),
    "uuid": Option(_uuid),
    "S": FLAG,
    "loadvm": TEXT,
    "incoming": TEXT,
    "preconfig": FLAG,
    "no-reboot": FLAG,
    "no-shutdown": FLAG,
    "action": Option(read_opts("ActionOptions"), merges=True),
    "watchdog-action": Option(_text, alias="action", key="watchdog"),
    "boot": Option(_boot),
    "rtc": Option(_rtc),
    "icount": Option(_icount, merges=True),
    "audiodev": Option(_json_or_keyval("Audiodev", "driver"), many=True),
    "overcommit": Option(_overcommit),
    "msg": Option(read_opts("MessageOptions")),
    "pidfile": TEXT,
    "daemonize": FLAG,
    "global": Option(_global, many=True),
    "d": TEXT,
    "D": TEXT,
    "add-fd": Option(_add_fd, many=True),
    "trace": Option(_trace, many=True),
    "compat": Option(_compat, many=True),
    "config": TEXTS,
    "readconfig": TEXTS,
    "writeconfig": TEXT,
}


Occurrence: TypeAlias = "tuple[str, str | None, str]"
"""An option as it was given: its name, its argument if it takes one, and what to put before an error about it."""


READ_LATER = frozenset(("blockdev", "chardev", "device", "drive", "fw_cfg", "net", "netdev", "nic", "object"))
"""Options whose arguments are read when the machine is made: those from files must remember where they stand."""


class FromFile(str):
    """An argument of one of these that stands in a file: `place` tells where, in front of what is wrong with it."""

    __slots__ = ("_place",)
    _place: Callable[[], str]

    def __new__(cls, text: str, place: Callable[[], str]) -> Self:
        """`place` is called when there is an error, since looking for lines takes a while."""
        made = super().__new__(cls, text)
        made._place = place
        return made

    @property
    def place(self) -> str:
        """File and line, and what follows them in a message."""
        return self._place()


def place_of(option: str, text: str | None = None) -> str:
    """What stands in front of an error about an option: `-option text: `, or where in a file it is."""
    if isinstance(text, FromFile):
        return text.place
    return f"-{option}: " if text is None else f"-{option} {text}: "


def warner(option: str, text: str) -> Warn:
    """Who prints warnings about an option."""
    return lambda warning: report(f"{place_of(option, text)}warning: {warning}")


@contextmanager
def at(option: str, text: str | None = None) -> Iterator[None]:
    """Put the option's place in front of an error that is raised inside."""
    with _at(lambda: place_of(option, text)):
        yield


@contextmanager
def _at(place: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except HintedError as error:
        raise UsageError(f"{place()}{error}\n{error.hint}") from None
    except QmpError as error:
        raise UsageError(f"{place()}{error}") from None


def _placed(warn: Warn, place: str) -> Warn:
    return lambda warning: warn(place + warning)


def occurrences(words: list[str]) -> Iterator[Occurrence]:
    """All options in their order, those of the files that `-readconfig` and `--config` name in their place. Raises UsageError."""
    rest = iter(words)
    for word in rest:
        if len(word) < 2 or not word.startswith("-"):
            yield "hda", word, f"{word}: "
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        option = OPTIONS.get(name)
        if option is None:
            raise UsageError(f"{word}: invalid option")
        if option.read is None:
            yield name, None, ""
            continue
        text = next(rest, None)
        if text is None:
            raise UsageError(f"{word}: requires an argument")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"-{name}: the argument is not valid UTF-8") from None
        place = f"-{name} {text}: "
        if option.key:
            name, text = option.alias, f"{option.key}={text.replace(',', ',,')}"
        yield name, text, place
        if name == "readconfig":
            from qemud.daemon.ini import read

            yield from read(text)
        elif name == "config":
            from qemud.daemon import config

            yield from config.read(text)


# Options that tell their parameters; those of the second set take a value without a key first, which `help` is then.
_TELLS = frozenset(
    ("action", "add-fd", "boot", "global", "msg", "overcommit", "rtc", "smp", "audiodev", "display")
)
_TELLS_LATER = frozenset(("icount", "mon", "name"))


def _asks_for_help(name: str, text: str) -> bool:
    if name not in _TELLS | _TELLS_LATER or text.startswith("{"):
        return False
    parts = qemuopts.split(text)
    return not qemuopts.HELP.isdisjoint(parts if name in _TELLS else parts[1:])


def _merged(before: Any, after: Any) -> Any:
    """What both have said, the later one last."""
    from msgspec.structs import replace

    given = {name: getattr(after, name) for name in after.__struct_fields__}
    return replace(before, **{name: value for name, value in given.items() if value is not None})


def parse(words: list[str], warn: Warn = lambda _text: None) -> CommandLine:
    """Read all words behind the program's name. Raises UsageError, HelpWanted for one; `warn` gets warnings."""
    values: dict[str, Any] = {}
    for name, text, place in occurrences(words):
        option = OPTIONS[name]
        target = option.alias or name
        if option.read is None or text is None:
            values[target] = True
            continue
        if _asks_for_help(target, text):
            raise HelpWanted(target)
        with _at(lambda place=place: place):  # type: ignore[misc]
            value = option.read(text, _placed(warn, f"{place}warning: "))
        if option.many:
            values.setdefault(target, []).append(value)
        elif option.merges and target in values:
            values[target] = _merged(values[target], value)
        else:
            values[target] = value
    return CommandLine(**{python_name(name): value for name, value in values.items()})

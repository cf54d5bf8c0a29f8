"""Lines: which command, which arguments, and what is said of wrong ones."""

from __future__ import annotations

import asyncio
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud._generated.table import COMMANDS as QMP_COMMANDS
from qemud._generated.types.hmp import HmpCommand, HmpInfo
from qemud.monitor.hmp.arguments import ArgumentError, Format, Reading, parse, split
from qemud.monitor.hmp.expression import ExpressionError, evaluate
from qemud.monitor.hmp.shell import Shell, function
from qemud.monitor.hmp.table import COMMANDS, INFO
from tests.hmp.support import Qmp, memory, run


def test_every_command_of_the_schema_can_be_typed_and_no_other():
    assert {command.name for command in COMMANDS.values()} == {name.value for name in HmpCommand}
    assert {command.name for command in INFO.values()} == {name.value for name in HmpInfo}


@pytest.mark.parametrize("command", [*COMMANDS.values(), *INFO.values()], ids=lambda command: command.name)
def test_every_command_has_a_function_and_stands_for_a_qmp_command(command):
    assert not command.qmp or command.qmp in QMP_COMMANDS
    assert asyncio.iscoroutinefunction(function(command))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", ""),
        ("  \t ", ""),
        ("nope", "unknown command: 'nope'\n"),
        ("  nope 1", "unknown command: '  nope'\n"),
        ("info nope", "unknown command: 'info nope'\n"),
        (
            "stop 1",
            'stop|s: extraneous characters at the end of line\nTry "help stop" for more information\n',
        ),
        (
            "info status 1",
            'status: extraneous characters at the end of line\nTry "help info status" for more information\n',
        ),
        ("print", 'unexpected end of expression\nTry "help print" for more information\n'),
        ("p 1/0", 'division by zero\nTry "help p" for more information\n'),
        ("p/q 1", "invalid char in format: 'q'\nTry \"help p\" for more information\n"),
        ("device_del", 'device_del: string expected\nTry "help device_del" for more information\n'),
        ("logfile", 'logfile: filename expected\nTry "help logfile" for more information\n'),
        ('device_del "a', 'device_del: string expected\nTry "help device_del" for more information\n'),
        (
            "qom-set -x a b c",
            'qom-set: unsupported option -x\nTry "help qom-set" for more information\n',
        ),
        (
            "memsave 0 0x100000000 f",
            "'memsave' has failed: integer is for 32-bit values\nTry \"help memsave\" for more information\n",
        ),
        ("trace-event a maybe", "Expected 'on' or 'off'\nTry \"help trace-event\" for more information\n"),
        ("help nope", "unknown command: 'nope'\n"),
        ("help info nope", "unknown command: 'info nope'\n"),
        ("help stop", "stop|s  -- halt the guest\n"),
        ("help x", "x /fmt addr -- show memory, by virtual addresses\n"),
        ("? info uuid", "info uuid  -- the UUID of the guest\n"),
    ],
)
def test_what_is_said(line, said):
    assert run(line) == said


def test_help_lists_all_commands_once_in_order():
    names = [line.split(" ")[0] for line in run("help").splitlines()]
    assert names == sorted({command.title for command in COMMANDS.values()})
    assert run("info") == run("help info")
    assert all(line.startswith("info ") for line in run("info").splitlines())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("1 + 2 & 3", 3),  # & binds stronger than + here
        ("-7/2", -3),
        ("-7%2", -1),
        ("~0", -1),
        ("0x10", 16),
        ("010", 8),
        ("(1+2)*3", 9),
        ("'a'+1", 98),
        ("- - 2", 2),
        ("$pc+4", 0x80000004),
        ("$a0", -1),
        ("0xffffffffffffffff", -1),
        ("0x7fffffffffffffff+1", -(1 << 63)),
    ],
)
def test_expressions(text, value):
    assert evaluate(text, 0, {"pc": 0x80000000, "a0": (1 << 64) - 1}) == (value, len(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unexpected end of expression"),
        ("(1", "')' expected"),
        ("'", "character constant expected"),
        ("'ab'", "missing terminating ' character"),
        ("$nope", "unknown register"),
        ("0x10000000000000000", "number too large"),
        ("9" * 1000, "number too large"),
        ("%", "invalid char '%' in expression"),
        ("(" * 5000, "expression is nested too deeply"),
        ("-" * 5000 + "1", "expression is nested too deeply"),
    ],
)
def test_what_is_no_expression(text, said):
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, 0, {})
    assert str(caught.value) == said


def test_an_expression_ends_before_what_does_not_belong_to_it():
    assert evaluate("1 2", 0, {}) == (1, 2)
    assert evaluate("08", 0, {}) == (0, 1)


def test_formats_are_remembered():
    reading = Reading()
    assert parse("fmt:/,addr:l", "/4dh 16", "x", reading) == {"fmt": Format("d", 2, 4), "addr": 16}
    assert parse("fmt:/,addr:l", "16", "x", reading) == {"fmt": Format("d", 2, 1), "addr": 16}
    assert parse("fmt:/,addr:l", "/i 16", "x", reading)["fmt"].kind == "i"
    assert parse("fmt:/,addr:l", "/x 16", "x", reading)["fmt"] == Format("x", 2, 1)


def test_flags_come_in_any_number_before_the_rest():
    spec = "json:-j,path:s,value:S"
    assert parse(spec, "-j /a  b c ", "t", Reading()) == {"json": True, "path": "/a", "value": "b c "}
    assert parse(spec, "/a b", "t", Reading()) == {"path": "/a", "value": "b"}
    two = "all:-a,brief:-b,n:i?"
    assert parse(two, "-b", "t", Reading()) == {"brief": True}
    assert parse(two, "-a -b 3", "t", Reading()) == {"all": True, "brief": True, "n": 3}
    with pytest.raises(ArgumentError):
        parse(two, "-b -a", "t", Reading())  # the order is the table's


def test_strings_in_quotes():
    assert split(r'a "b c" "d\"e\n"') == ["a", "b c", 'd"e\n']
    assert split('"a') is None
    assert split(r'"\q"') is None


def test_registers_are_asked_for_where_one_is_named():
    registers = {"cpu-index": 0, "registers": [{"name": "pc", "value": 16}, {"name": "x10/a0", "value": 5}]}
    assert run("print $pc+$a0+$x10", {"x-query-registers": registers}) == "0x1a\n"
    assert "unknown register" in run("print $pc", {"x-query-registers": registers | {"registers": []}})
    assert "unknown register" in run("print $pc")  # no processor at all


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("p 0", "0\n"),
        ("p -1", "0xffffffffffffffff\n"),
        ("p/d -1", "-1\n"),
        ("p/u -1", "18446744073709551615\n"),
        ("p/o 8", "010\n"),
        ("p/c 65", "'A'\n"),
        ("p/c 10", "'\\n'\n"),
        ("p/c 1", "'\\x01'\n"),
    ],
)
def test_print(line, shown):
    assert run(line) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("xp /3xb 0", "0000000000000000: 0x41 0x42 0x00\n"),
        ("xp /2xw 0", "0000000000000000: 0xff004241 0x04030201\n"),
        ("xp /1xg 0", "0000000000000000: 0x04030201ff004241\n"),
        ("xp /2dh 0", "0000000000000000: 16961 65280\n"),
        ("xp /1oh 0", "0000000000000000: 041101\n"),
        ("xp /3c 0", "0000000000000000: 'A' 'B' '\\x00'\n"),
        (
            "xp /9xb 0",
            """0000000000000000: 0x41 0x42 0x00 0xff 0x01 0x02 0x03 0x04
0000000000000008: Cannot access memory
""",
        ),
        ("xp 0x100", "0000000000000100: Cannot access memory\n"),
        (
            "xp /1000000000g 0",
            "Error: 8000000000 bytes were asked for, at most 1048576 can be shown at once\n",
        ),
    ],
)
def test_dumps(line, shown):
    replies = {"x-read-memory": memory(b"AB\x00\xff\x01\x02\x03\x04")}
    assert run(["xp /1xb 0", line], replies).partition("\n")[2] == shown


def test_a_dump_wraps_around_the_end_of_the_address_space():
    asked = []

    def read(arguments):
        asked.append(arguments["address"])
        return memory(bytes(16), (1 << 64) - 16)(arguments)

    assert run("xp /2g -16", {"x-read-memory": read}) == (
        "fffffffffffffff0: 0x0000000000000000 0x0000000000000000\n"
    )
    assert asked == [(1 << 64) - 16]


def test_sum_is_the_bsd_checksum_and_takes_holes_for_zeros():
    contents = bytes(range(200))
    regions = [{"name": "ram", "base": 0x100, "size": 200, "kind": "ram"}]
    replies = {"x-read-memory": memory(contents, 0x100), "x-query-mtree": regions}
    total = 0
    for byte in contents + bytes(100):
        total = ((total >> 1 | total << 15) + byte) & 0xFFFF
    assert run("sum 0x100 300", replies) == f"{total:05d}\n"


def test_instructions_end_where_memory_does():
    # addi sp, sp, -16; ret (compressed); half an instruction
    replies = {
        "query-cpus-fast": [{"cpu-index": 0}],
        "x-read-memory": memory(bytes.fromhex("130101ff 8280 1301"), 0x80000000),
    }
    assert run("xp /3i 0x80000000", replies).splitlines() == [
        "0x80000000:  ff010113          addi                    sp,sp,-0x10",
        "0x80000004:  8082              c.jr                    ra",
        "0x80000006:  Address 0x80000006 is out of bounds.",
    ]
    assert run("xp /100000i 0", replies).startswith("Error: 100000 instructions were asked for, at most ")
    assert run("xp /i 0", {"query-cpus-fast": []}) == "Can not dump without CPU\n"


def test_a_disassembler_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "capstone", None)
    said = run("x /i 0", {"query-cpus-fast": [{"cpu-index": 0}]})
    assert said == "Error: showing instructions takes the Python package 'capstone', which is not installed\n"


def test_figures_with_their_units():
    schemas = [
        {
            "provider": "machine",
            "target": "vcpu",
            "stats": [
                {"name": "a", "type": "cumulative", "unit": "seconds", "base": 10, "exponent": -9},
                {"name": "b", "type": "instant", "unit": "bytes", "base": 2, "exponent": 20},
                {"name": "c", "type": "instant", "exponent": 0},
                {"name": "d", "type": "instant", "base": 10, "exponent": 2},
                {"name": "e", "type": "instant", "unit": "boolean", "exponent": 0},
            ],
        }
    ]
    values = [{"name": name, "value": value} for name, value in zip("abcde", (1, 2, 3, 4, True), strict=True)]
    qmp = Qmp(
        {
            "query-stats-schemas": schemas,
            "query-cpus-fast": [{"cpu-index": 0, "qom-path": "/machine/cpu0"}],
            "query-stats": [{"provider": "machine", "qom-path": "/machine/cpu0", "stats": values}],
        }
    )
    assert asyncio.run(Shell(qmp.execute).run("info stats vcpu a,b machine")).splitlines() == [
        "    a (cumulative, ns): 1",
        "    b (instant, MiB): 2",
        "    c (instant): 3",
        "    d (instant, * 10^2): 4",
        "    e (instant, boolean): yes",
    ]
    assert qmp.asked[-1] == (
        "query-stats",
        {
            "target": "vcpu",
            "vcpus": ["/machine/cpu0"],
            "providers": [{"provider": "machine", "names": ["a", "b"]}],
        },
    )


def test_what_can_be_plugged():
    cpu = {"type": "c", "vcpus-count": 1, "qom-path": "/p", "props": {"node-id": 0, "core-id": 2}}
    assert run("info hotpluggable-cpus", {"query-hotpluggable-cpus": [cpu]}) == (
        'Hotpluggable CPUs:\n  type: "c"\n  vcpus_count: "1"\n  qom_path: "/p"\n  CPUInstance Properties:\n'
        '    node-id: "0"\n    core-id: "2"\n'
    )
    dimm = {"id": "d", "addr": 4096, "slot": 0, "node": 1, "size": 64, "memdev": "/objects/m"}
    dimm |= {"hotplugged": True, "hotpluggable": False}
    device = {"type": "dimm", "data": dimm}
    assert run("info memory-devices", {"query-memory-devices": [device]}) == (
        'Memory device [dimm]: "d"\n  addr: 0x1000\n  slot: 0\n  node: 1\n  size: 64\n  memdev: /objects/m\n'
        "  hotplugged: true\n  hotpluggable: false\n"
    )


def test_memory_backends():
    backend = {"id": "m", "size": 4096, "policy": "bind", "host-nodes": [0, 2, 3, 4]}
    backend |= dict.fromkeys(("merge", "dump", "prealloc", "share"), False)
    assert run("info memdev", {"query-memdev": [backend]}) == (
        "memory backend: m\n  size:  4096\n  merge: false\n  dump: false\n  prealloc: false\n  share: false\n"
        "  policy: bind\n  host nodes: 0,2-4\n\n"
    )


def test_before_the_machine_is_made_only_some_commands_are_there():
    early = {"query-machine-phase": {"phase": "accel-created"}}
    said = "Command 'stop' not available until machine initialization has completed.\n"
    assert run("stop", early) == said
    assert run("info registers", early) == said.replace("stop", "info registers")
    assert run("help stop", early) == "unknown command: 'stop'\n"
    listed = run("help", early)
    assert "exit_preconfig " in listed
    assert "system_reset" not in listed


def test_a_defect_in_a_command_is_told_in_one_line(capfd):
    assert run("info status", {"query-status": {}}) == "Error: Internal error: KeyError\n"
    assert "KeyError" in capfd.readouterr().err


texts = st.text(alphabet=st.characters(max_codepoint=0x7F) | st.sampled_from("\u20ac\udcff\0"), max_size=40)
words = st.sampled_from(
    [*COMMANDS, *(f"info {name}" for name in INFO), "-j", "-f", "/8xb", "/i", "$pc", '"', "\\", "a=b,c", "1"]
)


@given(st.lists(words | texts, max_size=6).map(" ".join))
def test_no_line_is_a_defect(line):
    qmp = Qmp({"query-cpus-fast": [], "x-query-log": [], "qom-list": [], "query-chardev": []})
    said = asyncio.run(Shell(qmp.execute).run(line))
    assert "Internal error" not in said
    assert not said or said.endswith("\n")

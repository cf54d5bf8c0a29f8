"""The command line: what is understood, and what is said of the rest."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud._generated.types.options import (
    ActionOptions,
    CommandLine,
    GlobalProperty,
    MemoryOptions,
    NameOptions,
)
from qemud._generated.types.run_state import PanicAction, RebootAction, WatchdogAction
from qemud.daemon.cmdline import OPTIONS, UsageError, parse
from qemud.qapi.runtime import qemuopts


def test_every_option_of_the_schema_is_read_and_no_other():
    assert set(OPTIONS) == set(CommandLine.__struct_encode_fields__)


def test_options_become_the_schemas_struct():
    line = parse(
        ["-machine", "virt,aclint=on", "-m", "256", "-S", "--nodefaults", "-name", "guest=a,,b,process=p"]
    )
    assert line.machine == "virt,aclint=on"
    assert line.m == MemoryOptions(size=256 << 20)
    assert line.S is True
    assert line.nodefaults is True
    assert line.name == NameOptions(guest="a,b", process="p")
    assert line.daemonize is None


def test_an_option_with_many_values_keeps_their_order():
    assert parse(["-serial", "null", "-serial", "pty"]).serial == ["null", "pty"]


def test_another_name_is_the_same_option():
    assert parse(["-M", "none"]).machine == "none"
    assert parse(["-h"]).help is True


def test_values_have_the_schemas_types():
    assert parse(["-action", "reboot=shutdown"]).action == ActionOptions(reboot=RebootAction.SHUTDOWN)
    several = [
        "-action",
        "reboot=shutdown,watchdog=none",
        "-watchdog-action",
        "pause",
        "-action",
        "panic=none",
    ]
    assert parse(several).action == ActionOptions(
        reboot=RebootAction.SHUTDOWN, panic=PanicAction.NONE, watchdog=WatchdogAction.PAUSE
    )
    assert parse(["-global", "serial-mm.regshift=2"]).global_ == [
        GlobalProperty(driver="serial-mm", property="regshift", value="2")
    ]
    assert parse(["-global", "driver=a,property=b,value=c"]).global_ == [
        GlobalProperty(driver="a", property="b", value="c")
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-nope"], "-nope: invalid option"),
        (["-m"], "-m: requires an argument"),
        (["-m", "-1"], "-m -1: Value '-1' is out of range for parameter 'size'"),
        (
            ["-m", "128x"],
            (
                "-m 128x: Parameter 'size' expects a non-negative number below 2^64\n"
                "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                "and exabytes, respectively."
            ),
        ),
        (["-smp", "foo"], "Parameter 'smp.cpus' expects integer"),
        (["-uuid", "xyz"], "-uuid xyz: failed to parse UUID string: wrong format"),
        (["-name", "guest=a,foo=b"], "-name guest=a,foo=b: Invalid parameter 'foo'"),
        (["-action", "foo=bar"], "-action foo=bar: Invalid parameter 'foo'"),
        (
            ["-watchdog-action", "nope,reboot=reset"],
            "-watchdog-action nope,reboot=reset: Parameter 'watchdog' does not accept value 'nope,reboot=reset'",
        ),
        (["-action", "reboot=nope"], "-action reboot=nope: Parameter 'reboot' does not accept value 'nope'"),
        (["-mon", "mode=foo"], "-mon mode=foo: Parameter 'mode' does not accept value 'foo'"),
        (
            ["-mon", "chardev=c,mode=control,pretty=maybe"],
            "-mon chardev=c,mode=control,pretty=maybe: Parameter 'pretty' expects 'on' or 'off'",
        ),
        (["-display", "nope"], "-display nope: Parameter 'type' does not accept value 'nope'"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(words, text):
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert str(caught.value) == text


def test_a_word_without_a_value_is_warned_of():
    warnings: list[str] = []
    with pytest.raises(UsageError, match="-global foo: Invalid parameter 'foo'"):
        parse(["-global", "foo"], warnings.append)
    assert warnings == [
        "-global foo: warning: short-form boolean option 'foo' deprecated\nPlease use foo=on instead"
    ]


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)))
def test_no_words_do_anything_but_parse_or_explain(words):
    with contextlib.suppress(UsageError):
        assert isinstance(parse(words), CommandLine)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True), st.text(min_size=1, max_size=8)))
def test_what_is_written_in_qemus_syntax_is_read_back(values):
    values.pop("id", None)
    written = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in values.items())
    assert qemuopts.parse(written) == values


@given(st.integers(0, 2**64 - 1))
def test_sizes_are_read_back(number):
    assert qemuopts.size("size", str(number)) == number
    assert qemuopts.size("size", hex(number)) == number

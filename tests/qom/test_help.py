"""What the command line tells of types."""

from __future__ import annotations

import pytest

import tests.qom.machines  # noqa: F401 - its types are listed
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from qemud.qom.help import device_help, object_help


@pytest.mark.parametrize("text", ["loader,addr=help", "loader", '{"driver": "help"}', ""])
def test_nobody_asked(text: str) -> None:
    assert device_help(text) is None
    assert object_help(text) is None


@pytest.mark.parametrize("text", ["help", "?", "driver=help"])
def test_devices_that_can_be_added(text: str) -> None:
    told = device_help(text)
    assert told is not None
    assert told.startswith("Controller/Bridge/Hub devices:\n")
    assert 'name "loader", desc "something put into memory at each reset"\n' in told
    assert 'name "test-plug", bus test-bus\n' in told
    assert "serial-mm" not in told


@pytest.mark.parametrize("text", ["loader,help", "driver=loader,addr=1,?"])
def test_options_of_a_device(text: str) -> None:
    told = device_help(text)
    assert told is not None
    lines = told.splitlines()
    assert lines[0] == "loader options:"
    assert [line.split("=")[0].strip() for line in lines[1:]] == [
        "addr",
        "cpu-num",
        "data-be",
        "data-len",
        "data",
        "file",
        "force-raw",
    ]
    assert lines[1].startswith("  addr=<uint64>          - where in physical memory")
    assert lines[1].endswith(" (default: 0)")
    assert lines[3].endswith(" (default: off)")
    assert "(default" not in lines[6]


def test_a_device_without_options() -> None:
    assert device_help("goldfish_rtc,help") == "There are no options for goldfish_rtc.\n"


def test_objects() -> None:
    assert object_help("help") == (
        "List of user creatable objects:\n"
        "  authz-list\n  authz-list-file\n  authz-simple\n"
        "  filter-buffer\n  filter-dump\n  filter-mirror\n  filter-redirector\n"
        "  iothread\n  memory-backend-file\n  memory-backend-memfd\n  memory-backend-ram\n"
        "  rng-builtin\n  rng-random\n  secret\n  throttle-group\n"
        "  tls-creds-psk\n  tls-creds-x509\n"
    )
    told = object_help("memory-backend-ram,help")
    assert told is not None
    assert "  policy=<HostMemPolicy> - " in told
    assert "(default: default)" in told
    assert "  host-nodes=<uint16List> - the host's NUMA nodes that policy speaks of (default: [])" in told


def test_of_no_type() -> None:
    with pytest.raises(DeviceNotFound, match="Device 'nope' not found"):
        device_help("nope,help")
    with pytest.raises(GenericError, match="Parameter 'typename' expects a non-abstract device type"):
        device_help("secret,help")
    with pytest.raises(GenericError, match="Parameter 'qom-type' does not accept value 'loader'"):
        object_help("loader,help")

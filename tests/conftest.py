"""What every test shares: programs that end with the test, and in CI, no skips."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from qemud.demo.debian import is_fetched
from tests.programs import QEMU, QEMUD, Program

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

CI = os.environ.get("CI", "") not in ("", "0", "false")

DEBIAN_FILES = ("/usr/lib/riscv64-linux-gnu/opensbi/", "/usr/lib/u-boot/")
"""Where Debian's packages put firmware; where they are not installed, what boots it is skipped."""

# A shell starts what it runs in the background with these ignored, and programs inherit that: terminals' keys would do nothing.
for _number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

# Examples differ from run to run on a developer's machine; in CI a failure must come back when it is run again. Deadlines
# are timing assertions, which a busy machine breaks.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if CI else "default")


class Starter(Protocol):
    """Starts an emulator with the arguments of `Program`."""

    def __call__(self, *arguments: str, **how: Any) -> Program: ...


@pytest.fixture
def daemon() -> Iterator[Starter]:
    """Starts qemud as often as is wanted; each ends with the test, which fails if it left a complaint."""
    with contextlib.ExitStack() as programs:

        def start(*arguments: str, **how: Any) -> Program:
            _need(word for word in arguments if word.startswith(DEBIAN_FILES))
            return programs.enter_context(Program(QEMUD, *arguments, **how))

        yield start


@pytest.fixture
def reference() -> Iterator[Starter]:
    """Starts Debian's QEMU in the same way."""
    _need([QEMU])
    with contextlib.ExitStack() as programs:
        yield lambda *arguments, **how: programs.enter_context(Program(QEMU, *arguments, **how))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a program that this machine lacks."""
    _need(program for mark in item.iter_markers("needs") for program in mark.args)
    if item.get_closest_marker("differential"):
        _need([QEMU])
    if item.get_closest_marker("system") and not is_fetched():
        _need(["apt-get", "apt-cache", "dpkg-deb"])


def _need(things: Iterable[str]) -> None:
    """Skip the test unless all `things`, programs or absolute paths, are there."""
    missing = [
        thing
        for thing in things
        if not (Path(thing).exists() if thing.startswith("/") else shutil.which(thing))
    ]
    if missing:
        pytest.skip(f"this machine lacks {', '.join(missing)}; .ci/run installs what tests need")


def _no_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI nothing is: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _no_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _no_skip(report)
    return report

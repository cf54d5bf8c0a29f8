"""qemud gives the answers that QEMU 10.0 was seen to give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vectors.replay import Case, cases, left_out, replay_cli, replay_qmp

if TYPE_CHECKING:
    from tests.conftest import Starter

QMP, CLI = cases("qmp"), cases("cli")


@pytest.mark.parametrize("kind", ["qmp", "cli"])
def test_the_list_of_left_out_cases_names_cases_and_reasons(kind: str) -> None:
    listed = left_out(kind)
    assert set(listed) <= set(cases(kind))
    assert all(reason.strip() for reason in listed.values())


@pytest.mark.parametrize(("name", "case"), QMP.items(), ids=QMP)
def test_conversation(name: str, case: Case, daemon: Starter) -> None:
    hold("qmp", name, replay_qmp(case, daemon))


@pytest.mark.parametrize(("name", "case"), CLI.items(), ids=CLI)
def test_command_line(name: str, case: Case, daemon: Starter) -> None:
    hold("cli", name, replay_cli(case, daemon))


def hold(kind: str, name: str, differences: list[str]) -> None:
    if name in left_out(kind):
        assert differences, f"{name!r} agrees with QEMU now: take it off tests/vectors/left-out.toml"
    else:
        assert not differences, "\n".join(differences)

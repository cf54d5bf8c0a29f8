"""A machine for each test, made anew."""

from __future__ import annotations

import pytest

from tests.qom.machines import Recorder, Services


@pytest.fixture
def services() -> Services:
    Recorder.failing.clear()
    made = Services()
    Recorder.log.clear()
    return made

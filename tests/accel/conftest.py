"""Every test of the accelerator runs on both: the C extension and its twin."""

import pytest

from tests.accel.machines import Bare


@pytest.fixture(params=["fast", "twin"])
def native(request, monkeypatch):
    """Which of the two the engine calls."""
    if request.param == "twin":
        monkeypatch.setenv("QEMUD_TWIN", "1")
    else:
        monkeypatch.delenv("QEMUD_TWIN", raising=False)
    return request.param


@pytest.fixture
def bare(native):
    """A bare machine."""
    machine = Bare()
    yield machine
    machine.close()


@pytest.fixture
def fast(monkeypatch):
    """A bare machine on the C extension, for what the twin lacks."""
    monkeypatch.delenv("QEMUD_TWIN", raising=False)
    machine = Bare()
    yield machine
    machine.close()

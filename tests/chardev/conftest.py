"""What several modules of these tests ask for: the event loops they run on, and certificates for TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.chardev.support import LOOPS, run_on
from tests.pki import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine, on each of the event loops in turn."""
    return lambda coroutine: run_on(request.param, coroutine)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the credentials of `pki` are of."""
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def pki(ca: Authority) -> Path:
    """Credentials of both sides."""
    return ca.issue(ca.issue(ca.directory.parent / "both", "server"), "client")

"""What docs/networks.md says, happens."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.transcripts import blocks, options, play
from tests.programs import QEMUD, Program

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start, *talks = blocks(PAGE)
    start = start._replace(
        text=start.text.replace("\\\n", "").replace("127.0.0.1:2222-", f"127.0.0.1:{free_port()}-")
    )
    words = options(start)
    assert words is not None
    with Program(QEMUD, *words, negotiate=False) as program:
        for block in talks:
            play(program, PAGE, block)
    assert Path("net.pcap").stat().st_size == 24, "the header of an empty file of frames"

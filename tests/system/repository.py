"""A Debian archive with one package, on a port of the loopback interface."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import subprocess
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = "greeting"
CONTENT = "hello from the host\n"
PATH = "usr/share/greeting"

_CONTROL = f"""\
Package: {PACKAGE}
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@localhost>
Description: one file
"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """Make the archive in `folder` and serve it: the port, and the paths that were asked for so far."""
    _make(folder)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _make(folder: Path) -> None:
    tree = folder / "tree"
    for path, text in (("DEBIAN/control", _CONTROL), (PATH, CONTENT)):
        (tree / path).parent.mkdir(parents=True)
        (tree / path).write_text(text)
    package = folder / f"{PACKAGE}_1.0_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(package)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    data = package.read_bytes()
    index = (
        f"{_CONTROL}Filename: ./{package.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    ).encode()
    (folder / "Packages").write_bytes(index)
    (folder / "Release").write_text(
        "Suite: test\nArchitectures: all riscv64\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    )

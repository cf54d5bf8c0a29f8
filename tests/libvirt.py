"""A libvirtd of one's own, which knows qemud as the emulator of riscv64 and nothing else.

libvirtd as root keeps to fixed places under /etc, /run and /var; in a mount namespace of its own these are folders below `work`.  It has a
host's name and UUID of its own, too, so that guests can move from one to another.
"""

from __future__ import annotations

import os
import pty
import random
import select
import shutil
import socket
import subprocess
import tempfile
import termios
import time
import uuid
from pathlib import Path
from typing import Self

from tests.programs import LIMIT, QEMUD

_PLACES = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
_QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
clear_emulator_capabilities = 0
"""


class Libvirt:
    """The daemon, and `virsh` connected to it."""

    def __init__(self) -> None:
        # Paths of monitor sockets below it must fit in 107 bytes.
        self.work = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
        for name in (*_PLACES, "sock", "bin"):
            (self.work / name).mkdir()
        self.emulator = self.work / "bin" / "qemu-system-riscv64"
        self.emulator.symlink_to(QEMUD)
        # Ports for guests that arrive; other tests choose theirs at the same time.
        first = random.randrange(49152, 65472, 64)
        ports = f"migration_port_min = {first}\nmigration_port_max = {first + 63}\n"
        (self.work / "etc/qemu.conf").write_text(_QEMU_CONF + ports)
        (self.work / "etc/libvirtd.conf").write_text(
            f'unix_sock_dir = "{self.work}/sock"\n'
            f'host_uuid = "{uuid.uuid4()}"\n'
            'unix_sock_rw_perms = "0700"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n'
            f'log_outputs = "2:file:{self.work}/log/libvirtd.log"\n'
        )
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(self.work / "notify"))
        self._manager.settimeout(LIMIT)
        self._daemon: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self._manager.close()
            raise

    def start(self) -> None:
        """Start the daemon and wait until it says that it is ready."""
        mounts = "".join(
            f"mkdir -p {place} && mount --bind {self.work}/{name} {place} && "
            for name, place in _PLACES.items()
        )
        path = f"{self.work}/bin:/usr/sbin"
        name = f"hostname {''.join(filter(str.isalnum, self.work.name))} && "
        command = f"{mounts}{name}PATH={path} exec libvirtd -f /etc/libvirt/libvirtd.conf -p {self.work}/pid"
        with (self.work / "output").open("ab") as output:
            self._daemon = subprocess.Popen(
                ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "NOTIFY_SOCKET": str(self.work / "notify")},
                start_new_session=True,
            )
        try:
            while b"READY=1" not in self._manager.recv(4096):
                pass
        except TimeoutError:
            said = (self.work / "output").read_text()
            self.stop()
            raise AssertionError(f"libvirtd did not get ready: {said}") from None

    def stop(self) -> None:
        """End the daemon; its guests go on."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(LIMIT)
            self._daemon = None

    def inside(self, *words: str) -> None:
        """Run a program that sees the files that the daemon sees."""
        assert self._daemon is not None
        subprocess.run(["nsenter", "--mount", "--target", str(self._daemon.pid), *words], check=True)

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.work}/sock/libvirt-sock"

    def virsh(self, *words: str) -> str:
        """What a virsh command prints; AssertionError with its words when it fails."""
        done = subprocess.run(
            ["virsh", "--connect", self.uri, *words],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert done.returncode == 0, f"virsh {' '.join(words)}: {done.stderr}\n{self.last_words()}"
        return done.stdout.strip()

    def last_words(self) -> str:
        """What emulators said last."""
        return "\n".join(path.read_text()[-2000:] for path in (self.work / "log/qemu").glob("*.log"))

    def close(self) -> None:
        try:
            if self._daemon is not None:
                for name in self.virsh("list", "--name").split():
                    self.virsh("destroy", name)
        finally:
            self.stop()
            self._manager.close()
            shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class VirshTerminal:
    """A virsh command in a terminal: `console`, `event`."""

    def __init__(self, libvirt: Libvirt, *words: str) -> None:
        self._controller, terminal = pty.openpty()
        self._process = subprocess.Popen(
            ["virsh", "--connect", libvirt.uri, *words],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        self._log = b""
        self._seen = 0

    def type(self, text: str) -> None:
        """Type into a console, once virsh has set its terminal up: it throws away what was typed before."""
        deadline = time.monotonic() + LIMIT
        while termios.tcgetattr(self._controller)[3] & termios.ICANON:
            assert time.monotonic() < deadline, self._log
            assert self._process.poll() is None, self._log
            time.sleep(0.001)  # no event tells that a terminal has been set up
        os.write(self._controller, text.encode())

    def expect(self, text: str) -> str:
        """Wait for `text` beyond what was expected before; everything up to and with it."""
        deadline = time.monotonic() + LIMIT
        while (found := self._log.find(text.encode(), self._seen)) < 0:
            ready = select.select([self._controller], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"{text!r} never came; got {self._log[-2000:]!r}"
            try:
                data = os.read(self._controller, 4096)
            except OSError:
                data = b""
            assert data, f"{text!r} never came, virsh ended; got {self._log[-2000:]!r}"
            self._log += data
        end = found + len(text.encode())
        passed, self._seen = self._log[self._seen : end], end
        return passed.decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._controller)

"""Packages of another Debian suite and architecture, fetched by apt as a normal user.

`PrivateApt` gives apt a state of its own in a private folder, so nothing on the machine changes and no root is needed. The
mirror is whatever the machine's own apt sources use, in either of their two formats, since apt itself is asked::

    apt = PrivateApt(Path("cache"), suite="trixie", architecture="riscv64")
    apt.update()
    package = apt.download("busybox-static")       # cache/busybox-static_1.37.0-6_riscv64.deb
    with members(package) as tar: ...
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBIAN_SUITES = frozenset(
    ("bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable")
)
MIRROR_VARIABLE = "QEMUD_DEBIAN_MIRROR"


class AptError(Exception):
    """Why a package could not be had, in one line."""


class PrivateApt:
    """apt with its lists, cache and status in `folder`, a new one, looking at one suite of one architecture.

    Raises AptError when there is no apt, or no Debian mirror among the machine's sources.
    """

    def __init__(self, folder: Path, *, suite: str, architecture: str) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise AptError(f"cannot fetch Debian packages: this machine has no {tool}")
        self._folder = folder.absolute()
        source = self._folder / "sources.list"
        lists = self._folder / "lists"
        archives = self._folder / "archives"
        status = self._folder / "status"
        for needed in (lists / "partial", archives / "partial"):
            needed.mkdir(parents=True, exist_ok=True)
        status.touch()
        signed = f" signed-by={KEYRING}" if KEYRING.exists() else ""
        source.write_text(f"deb [arch={architecture}{signed}] {debian_mirror()} {suite} main\n")
        settings = {
            "Dir::Etc::sourcelist": source,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": lists,
            "Dir::State::status": status,
            "Dir::Cache": self._folder,
            "Dir::Cache::archives": archives,
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        if os.geteuid() == 0:
            # Root's apt would hand the download to a user who may not look into a private folder.
            settings["APT::Sandbox::User"] = "root"
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Fetch the suite's list of packages (about 10 MB)."""
        self._run("apt-get", "update", "--error-on=any")

    def depends(self, package: str) -> list[str]:
        """The names of the packages that `package` depends on."""
        lines = self._run("apt-cache", "depends", "--important", package).splitlines()
        return [line.partition(":")[2].strip() for line in lines if line.strip().startswith("Depends:")]

    def download(self, package: str) -> Path:
        """Fetch the newest version of `package`, checked against the archive's signature; the path of its .deb."""
        self._run("apt-get", "download", package)
        fetched = list(self._folder.glob(f"{package}_*.deb"))
        if len(fetched) != 1:
            raise AptError(f"apt-get download {package} left {len(fetched)} packages, expected one")
        return fetched[0]

    def _run(self, tool: str, *arguments: str) -> str:
        done = subprocess.run(
            [tool, "--quiet=2", *self._options, *arguments],
            cwd=self._folder,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AptError(f"{tool} {' '.join(arguments)}: {_first_complaint(done.stderr)}")
        return done.stdout


def debian_mirror() -> str:
    """The address of a Debian mirror: `QEMUD_DEBIAN_MIRROR`, or the first that the machine's apt sources name."""
    chosen = os.environ.get(MIRROR_VARIABLE)
    if chosen:
        return chosen
    done = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    mirror = choose_mirror(line.split() for line in done.stdout.splitlines())
    if mirror is None:
        raise AptError(
            f"no Debian mirror among this machine's apt sources; name one in the environment variable {MIRROR_VARIABLE}"
        )
    return mirror


def choose_mirror(targets: Iterator[list[str]] | Sequence[list[str]]) -> str | None:
    """The first address in `targets`, rows of (address, release, component), that serves Debian's main archive.

    Backports and updates come from the same archive as the release; security updates do not.
    """
    for target in targets:
        match target:
            case [address, release, "main"] if _base_suite(release) in DEBIAN_SUITES:
                return address
            case _:
                continue
    return None


def _base_suite(release: str) -> str:
    base, _, pocket = release.partition("-")
    return base if pocket in ("", "updates", "backports") else release


@contextlib.contextmanager
def members(package: Path) -> Iterator[tarfile.TarFile]:
    """The file tree of a .deb as a tar stream: its members come in order, and only once."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield tar
        except tarfile.TarError as error:
            raise AptError(f"{package.name} is not a readable package: {error}") from error
        finally:
            # The reader often stops early: the file it wants is found, and 100 MB of modules follow.
            process.stdout.close()


def read_member(package: Path, prefix: str) -> bytes:
    """The first regular file in the .deb whose path begins with `prefix` (such as ``boot/vmlinux-``)."""
    with members(package) as tar:
        for member in tar:
            if member.isfile() and member.name.removeprefix("./").startswith(prefix):
                file = tar.extractfile(member)
                assert file is not None
                return file.read()
    raise AptError(f"{package.name} holds no file {prefix}*")


def _first_complaint(text: str) -> str:
    """The first error line of apt, without its mark."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[2:].strip() for line in lines if line.startswith("E:")]
    return (errors or lines or ["failed without a word"])[0]

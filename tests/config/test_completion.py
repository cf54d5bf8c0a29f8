"""Completion for shells, and the manual page: both say what the schema says."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud._generated.properties import STRUCTS
from qemud.daemon.cmdline import OPTIONS
from qemud.daemon.completion import SCRIPTS, candidates
from qemud.qapi.generate.build import ROOT_SCHEMA, build_docs
from qemud.qapi.schema import load
from tests.programs import LIMIT, QEMUD

QEMUD_ALONE = QEMUD.replace("-system-riscv64", "")
BASH = shutil.which("bash") or "bash"


def words(line: str) -> list[str]:
    return [word for word, _ in candidates(line)]


def test_every_option_is_offered():
    offered = words("qemud-system-riscv64 ")
    assert set(offered) == {f"-{name}" for name in OPTIONS}
    assert {f"--{name}" for name in OPTIONS} == set(words("qemud-system-riscv64 -S --"))
    assert all(text for _, text in candidates("qemud-system-riscv64 "))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("qemud con", ["config"]),
        ("qemud-system-riscv64 con", []),
        ("qemud config ", ["check", "schema"]),
        ("qemud config check ", []),
        ("qemud completion z", ["zsh"]),
        ("qemud -preco", ["-preconfig"]),
        ("qemud -machine virt-1", ["virt-10.0"]),
        ("qemud -M virt-8", ["virt-8.2", "virt-8.1", "virt-8.0"]),
        ("qemud -machine virt,acl", ["virt,aclint="]),
        ("qemud -machine virt,aclint=", ["virt,aclint=on", "virt,aclint=off"]),
        ("qemud -machine virt,aclint=of", ["virt,aclint=off"]),
        ("qemud -cpu r", ["rv64"]),
        ("qemud -accel ", ["tcg"]),
        ("qemud -accel tcg,thread=s", ["tcg,thread=single"]),
        ("qemud -display n", ["none"]),
        ("qemud -action reboot=s", ["reboot=shutdown"]),
        ("qemud -action reboot=shutdown,pan", ["reboot=shutdown,panic="]),
        ("qemud -object memory-backend-r", ["memory-backend-ram"]),
        ("qemud -object memory-backend-ram,pol", ["memory-backend-ram,policy="]),
        ("qemud -object memory-backend-ram,policy=b", ["memory-backend-ram,policy=bind"]),
        ("qemud -device loader,data-b", ["loader,data-be="]),
        ("qemud -chardev sock", ["socket"]),
        ("qemud -chardev socket,serv", ["socket,server="]),
        ("qemud -d guest", ["guest_errors"]),
        ("qemud -compat unstable-input=re", ["unstable-input=reject"]),
        ("qemud -kernel /bo", []),
        ("qemud -nope x", []),
        ("", []),
    ],
)
def test_arguments(line: str, expected: list[str]):
    assert words(line) == expected


@given(st.text("qemud -,=.machinectobjS \té", max_size=40))
def test_no_line_does_harm(line: str):
    last = line.rsplit(maxsplit=1)[-1] if line and not line[-1].isspace() else ""
    assert all(word.startswith(last) and "\n" not in word + text for word, text in candidates(line))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("qemud -machine virt-9", ["virt-9.2", "virt-9.1", "virt-9.0"]),
        # bash wants what comes behind the equals sign only.
        ("qemud -machine virt,aclint=o", ["on", "off"]),
        ("qemud -nogr", ["-nographic"]),
        ("qemud -kernel /", []),
    ],
)
def test_bash_completes(line: str, expected: list[str]):
    script = f"""{SCRIPTS["bash"].replace("PROGRAMS", "qemud")}
        COMP_LINE=$1 COMP_POINT=${{#1}}
        _qemud
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{Path(QEMUD).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [BASH, "--norc", "-c", script, "bash", line],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.stdout.split(), done.stderr) == (expected, "")


@pytest.mark.needs("fish")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("qemud -machine virt-9", ["virt-9.0", "virt-9.1", "virt-9.2"]),
        ("qemud-system-riscv64 -machine virt,aclint=o", ["virt,aclint=off", "virt,aclint=on"]),
        ("qemud -nogr", ["-nographic"]),
        ("qemud -kernel ker", ["kernel"]),
    ],
)
def test_fish_completes(tmp_path: Path, line: str, expected: list[str]):
    (tmp_path / "kernel").touch()
    script = f"{written_for('fish')}\ncomplete --do-complete $argv[1]\n"
    (tmp_path / "script").write_text(script)
    done = subprocess.run(
        ["fish", "--no-config", str(tmp_path / "script"), line],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (sorted(found.split("\t")[0] for found in done.stdout.splitlines()), done.stderr) == (expected, "")
    if line.endswith("nogr"):  # with what it is for
        assert "no screens" in done.stdout


ZSHRC = """
PS1='ready> '
unsetopt beep
autoload -Uz compinit
compinit -u -D
SCRIPT
tell() { zle -I; print -r -- "line<$BUFFER>" }
zle -N tell
bindkey '^Xt' tell
bindkey '^I' complete-word
"""


@pytest.mark.needs("zsh")
@pytest.mark.parametrize(
    ("line", "expected", "shown"),
    [
        ("qemud -machine virt-9", "qemud -machine virt-9.", ["virt-9.0", "virt-9.1", "virt-9.2"]),
        ("qemud-system-riscv64 -machine virt,acl", "qemud-system-riscv64 -machine virt,aclint=", []),
        ("qemud -action reboot=s", "qemud -action reboot=shutdown", []),
        ("qemud -nogr", "qemud -nographic", []),
        ("qemud -kernel ker", "qemud -kernel kernel", []),
    ],
)
def test_zsh_completes(tmp_path: Path, line: str, expected: str, shown: list[str]):
    (tmp_path / "kernel").touch()
    (tmp_path / ".zshrc").write_text(ZSHRC.replace("SCRIPT", written_for("zsh")))
    controller, terminal = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "--no-global-rcs", "-i"],
        env={**environment(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb", "COLUMNS": "200"},
        cwd=tmp_path,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        read_until(controller, "ready> ")
        tabs = "\t\t" if shown else "\t"  # the second shows what there is to choose from
        os.write(controller, f"{line}{tabs}\x18t".encode())
        told = read_until(controller, ">\r")
        assert re.findall("line<(.*?) ?>\r", told) == [expected]
        assert all(word in told for word in shown)
    finally:
        shell.kill()
        shell.wait()
        os.close(controller)


def written_for(shell: str) -> str:
    """The script for a shell, as the program writes it."""
    done = subprocess.run([QEMUD_ALONE, "completion", shell], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def environment(home: Path) -> dict[str, str]:
    """For shells: nothing of the user's, and the programs to complete on the path."""
    path = f"{Path(QEMUD).parent}:{os.environ['PATH']}"
    return {
        "HOME": str(home),
        "PATH": path,
        "LANG": "C.UTF-8",
        "XDG_DATA_HOME": str(home),
        "XDG_CACHE_HOME": str(home),
    }


def read_until(fd: int, text: str) -> str:
    """What a terminal shows, up to some text."""
    shown = b""
    while text.encode() not in shown:
        assert select.select([fd], [], [], LIMIT)[0], shown
        shown += os.read(fd, 4096)
    return shown.decode(errors="replace")


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_scripts_are_printed(shell: str):
    done = subprocess.run([QEMUD_ALONE, "completion", shell], capture_output=True, text=True, timeout=LIMIT)
    assert "qemud completion words" in done.stdout
    assert "qemud-system-riscv64" in done.stdout


def test_other_words_are_refused():
    done = subprocess.run([QEMUD_ALONE, "completion", "csh"], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2
    assert "usage: qemud completion bash|zsh|fish" in done.stderr


def test_the_manual_page_has_every_option(tmp_path: Path):
    build_docs(load(ROOT_SCHEMA), tmp_path)
    page = (tmp_path / "qemud.1").read_text()
    for name, *_ in STRUCTS["CommandLine"]:
        assert f".B \\-{name.replace('-', chr(92) + '-')}" in page
    # No line is taken for a request that is none.
    requests = {line.split()[0] for line in page.splitlines() if line.startswith(".")}
    assert requests <= {".TH", ".SH", ".TP", ".B", ".BR", ".RB", ".RI", ".RS", ".RE", ".I", ".br"}

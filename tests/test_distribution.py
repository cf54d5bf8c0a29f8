"""What people install: a source distribution is complete, and the wheel made from it works anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.programs import LIMIT

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "_generated", "__pycache__", "build", "dist", "*.egg-info", "*.so")


def build(kind: str, source: Path, out: Path) -> Path:
    """Have setuptools make a distribution."""
    out.mkdir()
    code = f"import setuptools.build_meta as b; b.build_{kind}({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [made] = out.iterdir()
    return made


def test_a_wheel_of_a_source_distribution_runs_anywhere(tmp_path: Path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    with tarfile.open(build("sdist", source, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    missing = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and not (unpacked / path.relative_to(source)).exists()
    }
    assert {name for name in missing if not name.startswith(("build/", "qemud/_generated/"))} == set()

    wheel = build("wheel", unpacked, tmp_path / "wheel")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    schema = {f"qemud/_schema/{path.name}" for path in (ROOT / "qapi").glob("*.json")}
    assert schema | {"qemud/_generated/table.py", "qemud/demo/demo.bin", "qemud/py.typed"} <= set(names)
    assert any(name.startswith("qemud/accel/unicorn/_fast.") and name.endswith(".so") for name in names)
    assert not any(name.startswith(("tests/", "bench/", "qapi/")) for name in names)

    commands = [{"execute": name} for name in ("qmp_capabilities", "query-qmp-schema", "quit")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "qemud", "-machine", "none", "-display", "none", "-qmp", "stdio"],
        input="".join(map(json.dumps, commands)),
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sum("return" in json.loads(line) for line in done.stdout.splitlines()) == len(commands)

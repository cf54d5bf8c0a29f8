"""The build's own steps; everything else is in pyproject.toml.

Wheels and editable installs alike generate `qemud/_generated/` from the schema first.  The wheel carries the generated
package, and the schema in `qemud/_schema/`.  Where there is a compiler, the native part of the engine is built; its Python
twin serves where there is none.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FAST = Path("qemud/accel/unicorn/_fast.c")


class BuildPython(build_py):
    """`build_py`, with generated code and the schema."""

    def finalize_options(self) -> None:
        generate()
        # What has just been made was not there when the packages were listed.
        self.distribution.packages = find_packages(include=["qemud", "qemud.*"])
        super().finalize_options()

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            schema = Path(self.build_lib) / "qemud" / "_schema"
            schema.mkdir(parents=True, exist_ok=True)
            for source in sorted((ROOT / "qapi").glob("*.json")):
                shutil.copyfile(source, schema / source.name)


def generate() -> None:
    """Make `qemud/_generated/` of the source tree; needs nothing that is not in it."""
    sys.path.insert(0, str(ROOT))
    try:
        from qemud.qapi.diagnostics import SchemaError
        from qemud.qapi.generate.build import build_project

        try:
            build_project(ROOT)
        except SchemaError as error:
            sys.exit(str(error))
    finally:
        sys.path.remove(str(ROOT))


def extensions() -> list[Extension]:
    """The native part, if its source is here."""
    if not (ROOT / FAST).is_file():
        return []
    return [
        Extension(
            "qemud.accel.unicorn._fast",
            [str(FAST)],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
    ]


if __name__ == "__main__":
    setup(
        cmdclass={"build_py": BuildPython},
        ext_modules=extensions(),
        options={"bdist_wheel": {"py_limited_api": "cp311"}} if extensions() else {},
    )

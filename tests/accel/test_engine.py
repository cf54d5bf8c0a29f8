"""Another engine, another host, another layout: one sentence, never a crash."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from qemud.accel.unicorn import layout, library, native
from qemud.qapi.runtime.errors import GenericError

NEEDED = r"^unicorn 2\.1\.4 on x86-64 Linux is needed, found "


@pytest.fixture
def engine():
    """A fresh engine, without anything of ours."""
    lib = library.load()
    handle = ctypes.c_void_p()
    assert lib.quick.uc_open(library.ARCH_RISCV, library.MODE_RISCV64, ctypes.byref(handle)) == 0
    yield lib, handle.value
    lib.quick.uc_close(handle)


@pytest.fixture
def fresh_load():
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_another_host(fresh_load, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(GenericError, match=NEEDED + r"a host of aarch64 Linux$"):
        library.load()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(GenericError, match=NEEDED + r"a host of aarch64 Darwin$"):
        library.load()


def test_no_package(fresh_load, monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda _name: None)
    with pytest.raises(GenericError, match=NEEDED + r"no package 'unicorn'$"):
        library.load()


def test_a_package_without_the_library(fresh_load, monkeypatch, tmp_path):
    monkeypatch.setattr(
        library, "find_spec", lambda _name: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    with pytest.raises(GenericError, match=NEEDED + r"none that loads: "):
        library.load()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libunicorn.so.2").write_bytes(b"not a library")
    with pytest.raises(GenericError, match=NEEDED + r"none that loads: "):
        library.load()


def test_a_library_of_another_kind(monkeypatch):
    with pytest.raises(GenericError, match=NEEDED + r"\? without uc_version$"):
        library.Library("libm.so.6")


def test_another_version(fresh_load, monkeypatch):
    monkeypatch.setattr(library, "VERSION", (2, 2, 0))
    with pytest.raises(GenericError, match=NEEDED + r"2\.1\.4$"):
        library.load()


def test_a_library_that_lost_a_function(fresh_load, monkeypatch):
    monkeypatch.setitem(library.PROTOTYPES, "riscv_gone_riscv64", (None, ()))
    with pytest.raises(GenericError, match=NEEDED + r"2\.1\.4 without riscv_gone_riscv64$"):
        library.load()


@pytest.mark.parametrize(
    "name",
    [
        "UC_CPU",
        "UC_NO_EXIT_REQUEST",
        "CPU_CFLAGS_NEXT_TB",
        "CPU_INTERRUPT_REQUEST",
        "CPU_ENV_PTR",
        "CPU_ICOUNT_DECR_PTR",
        "CPU_AFTER_JMP_CACHE",
        "AFTER_UC",
        "PMP",
        "RDTIME_FN",
    ],
)
@pytest.mark.parametrize("step", [-8, 8, 4096, 1 << 30])
def test_a_field_that_is_elsewhere_is_noticed(engine, monkeypatch, name, step):
    monkeypatch.setattr(layout, name, getattr(layout, name) + step)
    with pytest.raises(GenericError, match=NEEDED + r"one whose .* is elsewhere$"):
        layout.find(*engine)


@pytest.mark.parametrize(
    "register", ["priv", "mstatus", "mip", "satp", "sepc", "mepc", "stval", "mtval", "scounteren"]
)
def test_a_register_that_is_elsewhere_is_noticed(engine, monkeypatch, register):
    monkeypatch.setitem(layout.ENV, register, layout.ENV[register] + 8)
    with pytest.raises(GenericError, match=NEEDED + r"one whose .* is elsewhere$"):
        layout.find(*engine)


@pytest.mark.parametrize("name", ["REGION_OPS", "REGION_OPAQUE", "CALLBACKS_OPS"])
def test_a_region_that_is_elsewhere_is_noticed(native, monkeypatch, name):
    from tests.accel import asm
    from tests.accel.machines import RAM, Bare

    machine = Bare()
    monkeypatch.setattr(layout, name, getattr(layout, name) + 8)
    machine.vcpu.reset(pc=RAM)
    machine.space.write_physical(RAM, asm.program(asm.WFI))
    with pytest.raises(GenericError, match=NEEDED + r"one whose device region is elsewhere$"):
        machine.vcpu.run()
    machine.close()


def test_the_layout_is_found(engine):
    fields = layout.find(*engine)
    assert fields.register("mepc") == fields.env + 736
    assert ctypes.c_uint32.from_address(fields.exception_index).value == 0xFFFF_FFFF


def test_without_the_extension_the_twin_serves_and_says_what_it_lacks(monkeypatch):
    warnings = []
    monkeypatch.delenv("QEMUD_TWIN", raising=False)
    monkeypatch.setitem(sys.modules, "qemud.accel.unicorn._fast", None)
    monkeypatch.setattr(
        native, "log", SimpleNamespace(warning=lambda text, **fields: warnings.append((text, fields)))
    )
    from tests.accel.machines import Bare

    machine = Bare()
    try:
        assert type(machine.vcpu._core).__module__ == "qemud.accel.unicorn.twin"
        assert "C extension" in str(warnings)
    finally:
        machine.close()


def test_a_process_that_may_not_have_the_memory_is_told_so():
    """The engine itself would end the process with status 1."""
    program = """
import resource
from qemud.accel import create_vcpu
from qemud.machine.memory import AddressSpace
from qemud.qapi.runtime.errors import GenericError
resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
try:
    create_vcpu(AddressSpace())
except GenericError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == (
        "the engine needs 256 MiB of address space that is writable and executable: Cannot allocate memory\n"
    )


def test_closing_twice_is_harmless(native):
    from tests.accel.machines import Bare

    machine = Bare()
    machine.vcpu.close()
    machine.vcpu.close()
    machine.vcpu.kick()
    machine.close()

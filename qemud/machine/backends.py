"""Backends that a client makes with object-add: memory, and secrets.

A memory backend is RAM that waits for a use: `-machine memory-backend=ID` makes it the machine's.  The board takes its block;
from then on the object cannot be removed.

    backend = board.memory_backend("riscv_virt_board.ram", size)
    block = backend.take()      # a RamBlock, as if the board had made it

Source of the texts: QEMU 10.0, backends/hostmem*.c, crypto/secret*.c.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

from qemud._generated.types.backends import (
    HostMemPolicy,
    MemoryBackendCommonProperties,
    MemoryBackendFileProperties,
    MemoryBackendMemfdProperties,
    MemoryBackendProperties,
    QCryptoSecretFormat,
    SecretProperties,
)
from qemud.machine.descriptors import close_file, fdsets, names_fdset, open_file, read_from_start
from qemud.machine.memory import RamBlock
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemud.qom.object import Object
    from qemud.qom.tree import Tree

_MADV_POPULATE_WRITE = 23  # Linux 5.14, not in Python's mmap yet
_SYS_MBIND = 237  # x86-64
_MPOL_MF_STRICT = 1
_MPOL_MF_MOVE = 2
_MODES = {
    HostMemPolicy.DEFAULT: 0,
    HostMemPolicy.PREFERRED: 1,
    HostMemPolicy.BIND: 2,
    HostMemPolicy.INTERLEAVE: 3,
}
_MAX_NODES = 128
_SECRET_LIMIT = 16 << 20  # bytes; a file beyond that is no secret


class MappedBlock(RamBlock):
    """RAM in a file that is open already; the block owns `fd` from now on, even when this fails."""

    def __init__(self, name: str, size: int, fd: int, *, offset: int = 0, share: bool = True) -> None:
        # The base's constructor makes an anonymous file; all that it sets is set here.
        self.name = name
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.fd = fd
        self._address = 0
        kind = mmap.MAP_SHARED if share else mmap.MAP_PRIVATE
        self.shared = share
        self.plain = share and not offset
        try:
            self.mapping = mmap.mmap(fd, self.size, flags=kind, offset=offset)
        except (OSError, OverflowError, ValueError) as error:
            close_file(fd)
            self.fd = -1
            reason = error.strerror if isinstance(error, OSError) else "Cannot allocate memory"
            raise GenericError(f"unable to map backing store for guest RAM: {reason}") from None
        self.view = memoryview(self.mapping)

    def close(self) -> None:
        """Give the memory back, and the file to the set of descriptors that it came from."""
        fdsets.forget(self.fd)
        super().close()


class MemoryBackend(UserCreatable, type_name="memory-backend", abstract=True, interfaces=("user-creatable",)):
    """What all memory backends have in common.  `block` is the memory, once the object is complete."""

    options: MemoryBackendCommonProperties
    block: RamBlock | None = None
    in_machine = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._lock = threading.Lock()

    def make_block(self) -> RamBlock:
        """Get the memory from the host; in a worker thread."""
        raise GenericError(f"object type '{self.type_name}' is abstract")

    async def complete(self) -> None:
        """Get the memory and tell the host what the options say of it."""
        if self.options.size == 0:
            raise GenericError(f"property 'size' of {self.type_name} doesn't take value '0'")
        self._check_nodes()
        abandoned = threading.Event()
        try:
            await asyncio.to_thread(self._prepare, abandoned)
        except BaseException:
            # The thread cannot be called back: it gives away what comes too late.
            abandoned.set()
            self.close()
            raise

    def close(self) -> None:
        """Give the memory back to the host."""
        with self._lock:
            block, self.block = self.block, None
        if block is not None:
            block.close()

    def property_changed(self, name: str) -> None:
        """Tell the host what has changed."""
        if self.block is None:
            return
        if name == "merge":
            _advise(self.block, mmap.MADV_MERGEABLE if self.options.merge else mmap.MADV_UNMERGEABLE)
        elif name == "dump":
            _advise(self.block, mmap.MADV_DODUMP if self.options.dump else mmap.MADV_DONTDUMP)

    def take(self) -> RamBlock:
        """The memory, for use by the machine; GenericError when somebody has it already."""
        if self.in_machine or self.block is None:
            raise GenericError(f"memory backend {self.id} can't be used multiple times.")
        self.in_machine = True
        self.hold()
        return self.block

    def give_back(self) -> None:
        """Use the memory no longer."""
        self.in_machine = False
        self.release()

    def _check_nodes(self) -> None:
        nodes, policy = self.options.host_nodes, self.options.policy
        for node in nodes:
            if node >= _MAX_NODES:
                raise GenericError(f"Invalid host-nodes value: {node}")
        if nodes and policy is HostMemPolicy.DEFAULT:
            raise GenericError(
                "host-nodes must be empty for policy default, "
                "or you should explicitly specify a policy other than default"
            )
        if not nodes and policy is not HostMemPolicy.DEFAULT:
            raise GenericError(f"host-nodes must be set for policy {policy.value}")

    def _prepare(self, abandoned: threading.Event) -> None:
        block = self.make_block()
        try:
            if self.options.merge:
                _advise(block, mmap.MADV_MERGEABLE)
            if not self.options.dump:
                _advise(block, mmap.MADV_DONTDUMP)
            if self.options.host_nodes:
                _bind(block, _MODES[self.options.policy], self.options.host_nodes)
            if self.options.prealloc:
                _populate(block)
        except BaseException:
            block.close()
            raise
        self.block = block
        if abandoned.is_set():
            self.close()


class MemoryBackendRam(MemoryBackend, type_name="memory-backend-ram", options=MemoryBackendProperties):
    """Anonymous memory.

    It lies in a file that nobody else has, so that `share` makes no difference.
    """

    def make_block(self) -> RamBlock:
        """Get the memory from the host."""
        return RamBlock(self.id or self.type_name, self.options.size)


class MemoryBackendMemfd(
    MemoryBackend, type_name="memory-backend-memfd", options=MemoryBackendMemfdProperties
):
    """Memory in an anonymous file."""

    options: MemoryBackendMemfdProperties

    def make_block(self) -> RamBlock:
        """Make the file, of the right size for good, and map it."""
        name = self.id or self.type_name
        size = -(-self.options.size // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = -1
        try:
            fd = os.memfd_create(name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            if self.options.seal:
                import fcntl

                seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except (OSError, OverflowError) as error:
            if fd >= 0:
                os.close(fd)
            reason = error.strerror if isinstance(error, OSError) else "File too large"
            raise GenericError(f"cannot set up guest memory '{name}': {reason}") from None
        return MappedBlock(name, size, fd, share=self.options.share)


class MemoryBackendFile(MemoryBackend, type_name="memory-backend-file", options=MemoryBackendFileProperties):
    """Memory that is the content of a file."""

    options: MemoryBackendFileProperties

    async def complete(self) -> None:
        """Open the file and map it."""
        options = self.options
        if options.readonly and options.share:
            # QEMU calls that a ROM; nothing here takes one.
            raise GenericError("property 'readonly' = 'on' is not supported with 'share' = 'on'")
        if options.offset % mmap.PAGESIZE:
            raise GenericError(
                f"offset 0x{options.offset:x} must be multiples of page size 0x{mmap.PAGESIZE:x}"
            )
        await super().complete()

    def close(self) -> None:
        """Give the memory back; with `discard-data`, what was in the file is thrown away first."""
        if self.block is not None and self.options.discard_data:
            _advise(self.block, mmap.MADV_REMOVE)
        super().close()

    def make_block(self) -> RamBlock:
        """Open, or make, the file, see that it is long enough, and map it."""
        options = self.options
        path = options.mem_path
        created = False
        fd = -1
        try:
            fd, created = _open_store(path, readonly=options.readonly)
            self._fit(fd)
        except (OSError, OverflowError, ValueError, GenericError) as error:
            if fd >= 0:
                close_file(fd)
            if created:
                os.unlink(path)
            if isinstance(error, GenericError):
                raise
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise GenericError(f"can't open backing store {path} for guest RAM: {reason}") from None
        try:
            return MappedBlock(
                self.id or self.type_name, options.size, fd, offset=options.offset, share=options.share
            )
        except GenericError:
            if created:
                os.unlink(path)
            raise

    def _fit(self, fd: int) -> None:
        """Let an empty file grow; GenericError for one that is too short."""
        options = self.options
        actual = os.fstat(fd).st_size
        needed = options.offset + options.size
        if actual < needed and (actual or options.readonly):
            raise GenericError(
                f"{self.id} backing store size 0x{actual:x} is too small for 'size' option "
                f"0x{options.size:x} plus 'offset' option 0x{options.offset:x}"
            )
        if actual == 0 and not options.readonly:
            os.ftruncate(fd, -(-needed // mmap.PAGESIZE) * mmap.PAGESIZE)


class Secret(UserCreatable, type_name="secret", options=SecretProperties, interfaces=("user-creatable",)):
    """A password or key.  `value` is its bytes, once the object is complete."""

    confidential = frozenset({"data"})
    options: SecretProperties
    value: bytes = b""

    async def complete(self) -> None:
        """Read and decode the secret."""
        options = self.options
        if options.file is not None:
            if options.data is not None:
                raise GenericError("'file' and 'data' are mutually exclusive")
            raw = await asyncio.to_thread(_read_secret, options.file)
        elif options.data is not None:
            raw = options.data.encode()
        else:
            raise GenericError("Either 'file' or 'data' must be provided")
        if options.format is QCryptoSecretFormat.BASE64:
            import base64
            import binascii

            try:
                raw = base64.b64decode(b"".join(raw.split()), validate=True)
            except binascii.Error:
                raise GenericError("Base64 data contains invalid characters") from None
        self.value = raw


def secret_of(tree: Tree, name: str) -> bytes:
    """The bytes of the secret object of that id.  Raises GenericError when there is none."""
    return secret_in(tree.objects.children, name)


def secret_in(objects: Mapping[str, Object], name: str) -> bytes:
    """The same, from what is below `/objects`."""
    found = objects.get(name)
    if found is None:
        raise GenericError(f"No secret with id '{name}'")
    if not isinstance(found, Secret):
        raise GenericError(f"Object with id '{name}' is not a secret")
    return found.value


def _read_secret(path: str) -> bytes:
    try:
        # Pipes and terminals could keep the reader waiting for ever: only a file will do.
        fd = open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise GenericError(f"Unable to read {path}: Failed to open file “{path}”: not a regular file")
            data = read_from_start(fd, _SECRET_LIMIT + 1)
        finally:
            close_file(fd)
    except OSError as error:
        raise GenericError(f"Unable to read {path}: Failed to open file “{path}”: {error.strerror}") from None
    if len(data) > _SECRET_LIMIT:
        raise GenericError(f"Unable to read {path}: more than {_SECRET_LIMIT} bytes are no secret")
    return data


def _open_store(path: str, *, readonly: bool) -> tuple[int, bool]:
    """A descriptor of the backing file, and whether the file was made for it; OSError."""
    flags = os.O_RDONLY if readonly else os.O_RDWR
    if names_fdset(path):
        return open_file(path, flags), False
    try:
        if stat.S_ISDIR(os.stat(path).st_mode) and not readonly:
            # A file without a name: it goes when the memory does.
            return os.open(path, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600), False
        return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK), False
    except FileNotFoundError:
        if readonly:
            raise
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), True


def _advise(block: RamBlock, advice: int) -> None:
    """Tell the host; where it does not know the advice, nothing is lost."""
    try:
        block.mapping.madvise(advice)
    except OSError:
        return


def _populate(block: RamBlock) -> None:
    """Have the host give all of the memory now; GenericError when it cannot."""
    import ctypes

    # Not mmap's madvise: that holds the interpreter's lock, for seconds if there is much to give.
    libc = ctypes.CDLL(None, use_errno=True)
    address, size = ctypes.c_void_p(block.address), ctypes.c_size_t(block.size)
    if libc.madvise(address, size, ctypes.c_int(_MADV_POPULATE_WRITE)) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise GenericError(f"qemu_prealloc_mem: preallocating memory failed: {reason}")


def _bind(block: RamBlock, mode: int, nodes: list[int]) -> None:
    """Bind memory to nodes of the host; GenericError when it will not."""
    import ctypes

    mask = ctypes.c_uint64 * (_MAX_NODES // 64)
    words = [
        sum(1 << (node % 64) for node in set(nodes) if node // 64 == word) for word in range(len(mask()))
    ]
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(
        ctypes.c_long(_SYS_MBIND),
        ctypes.c_void_p(block.address),
        ctypes.c_ulong(block.size),
        ctypes.c_int(mode),
        mask(*words),
        ctypes.c_ulong(_MAX_NODES + 1),
        ctypes.c_uint(_MPOL_MF_STRICT | _MPOL_MF_MOVE),
    )
    if result != 0:
        raise GenericError(f"cannot bind memory to host NUMA nodes: {os.strerror(ctypes.get_errno())}")

"""Guests that tests and benches boot: Debian's kernel, with an initramfs that carries two scripts of ours.

``python -m tests.guests [FOLDER]`` fetches them (once) and prints the paths of kernel and initrd; with FOLDER it copies
both there, as ``Image`` and ``initrd.cpio.gz``.  A Debian on a disk of its own is made by `tests.guests.disk`.

In the guest, ``bench`` runs three timed loads; each writes a line ``BENCH name begin`` and a line ``BENCH name end`` to the
console, for the host to time. ``stress COUNT`` prints COUNT lines ``STRESS i HASH``; every HASH must be `STRESS_HASH`.
"""

from __future__ import annotations

import hashlib

from qemud.demo.debian import Guest, fetch

BENCHES = ("syscalls", "fork", "sha256")
BENCH_ZEROS = 24 << 20
BENCH_HASH = hashlib.sha256(bytes(BENCH_ZEROS)).hexdigest()

_BENCH = f"""\
#!/bin/sh
head -c {BENCH_ZEROS} /dev/zero > /tmp/zeros
echo BENCH syscalls begin
dd if=/dev/zero of=/dev/null bs=1 count=50000 2>/dev/null
echo BENCH syscalls end
echo BENCH fork begin
i=0
while [ $i -lt 60 ]; do /bin/busybox true; i=$((i + 1)); done
echo BENCH fork end
echo BENCH sha256 begin
sha256sum /tmp/zeros
echo BENCH sha256 end
rm /tmp/zeros
echo BENCH all end
"""

_STRESS_NUMBERS = 20000
STRESS_HASH = hashlib.sha256(b"".join(b"%d\n" % i for i in range(1, _STRESS_NUMBERS + 1))).hexdigest()

_STRESS = f"""\
#!/bin/sh
i=0
while [ $i -lt ${{1:-10}} ]; do
    i=$((i + 1))
    echo STRESS $i $(seq 1 {_STRESS_NUMBERS} | sha256sum | cut -c 1-64)
done
echo STRESS end
"""


def linux() -> Guest:
    """Debian's kernel and an initramfs with ``bench`` and ``stress``."""
    return fetch(
        name="initrd-tests.cpio.gz", extra={"bin/bench": _BENCH.encode(), "bin/stress": _STRESS.encode()}
    )

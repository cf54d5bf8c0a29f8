"""Guests to try qemud with: an embedded one of a few KB, and Debian's kernel fetched with apt.

``demo.bin`` is the embedded guest. Its source lies in ``guest/`` beside a Makefile that builds it bit for bit. `debian`
fetches a kernel and makes an initramfs for it. Nothing in the emulator imports this package; only the command does.
"""

from __future__ import annotations

from pathlib import Path

DEMO_GUEST = Path(__file__).with_name("demo.bin")
"""The embedded default guest: a raw RISC-V image for ``-kernel``, entered in S-mode with the device tree in a1."""

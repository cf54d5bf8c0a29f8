"""What QEMU 10.0 (Debian, riscv64) was seen to answer, and how to hold a program to it.

``qmp-10.0.jsonl`` has conversations, ``cli-10.0.jsonl`` command lines. ``left-out.toml`` names the cases that qemud does not
follow, each with its reason; the list only shrinks, since a case on it that passes fails the tests.
"""

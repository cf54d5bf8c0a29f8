"""RISC-V: the `virt` board, its harts, what it boots and its built-in firmware.

virt.py         the board: its devices and how they are wired
layout.py       their addresses and interrupt numbers
device_tree.py  the device tree that tells of them
boot.py         what goes where before the first instruction, and the reset vector
hart.py         harts as objects, and the group that holds them
sbi/            the firmware that serves an S-mode kernel when no other is given
"""

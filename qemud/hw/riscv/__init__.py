"""RISC-V: the `virt` board, its harts, what it boots and its built-in firmware.

virt.py     the board: addresses, interrupt numbers, wiring
fdt.py      its device tree
boot.py     what goes where before the first instruction, and the reset vector
hart.py     harts as objects, and the group that holds them
sbi/        the firmware that serves an S-mode kernel when no other is given
"""

"""Devices by kind, boards, and what a board boots.

    block/ char/ intc/ misc/ nvram/ rtc/ scsi/ virtio/   devices, each a data sheet in Python
    pci/                             the PCI bus, its bridges, and what functions have in common
    boot/                            device trees, ELF files, kernels and initial ramdisks
    riscv/                           the `virt` board, its harts and its built-in firmware
    none.py                          the board with nothing on it
    boards.py                        which boards there are, as data
    qom_types.py                     which types there are, as data

A device is a class bound to two structs of the schema, its options and its state (`qemud.qom`).  It is plain synchronous code that
runs on the machine thread, and its state struct is all it knows: what is not in there can be derived from it.
"""

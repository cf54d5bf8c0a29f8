"""What kinds of devices there are, in words, by class code.

Source: PCI Code and ID Assignment Specification 1.11, section 1; the wording is the one of QEMU 10.0 (hw/pci/pci.c), which people read in
`info pci`.
"""

from __future__ import annotations

DESCRIPTIONS: dict[int, str] = {
    0x0001: "VGA controller",
    0x0100: "SCSI controller",
    0x0101: "IDE controller",
    0x0102: "Floppy controller",
    0x0103: "IPI controller",
    0x0104: "RAID controller",
    0x0106: "SATA controller",
    0x0107: "SAS controller",
    0x0180: "Storage controller",
    0x0200: "Ethernet controller",
    0x0280: "Network controller",
    0x0380: "Display controller",
    0x0500: "RAM controller",
    0x0580: "Memory controller",
    0x0600: "Host bridge",
    0x0604: "PCI bridge",
    0x0680: "Bridge",
    0x0700: "Serial port",
}
"""Those that devices here have, or can be given."""

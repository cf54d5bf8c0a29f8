"""Tests of the room `hw/pci` and of virtio devices behind PCI."""

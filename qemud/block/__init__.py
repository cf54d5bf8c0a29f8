"""Disks: there are none yet, which is what clients are told."""

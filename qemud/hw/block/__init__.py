"""Disks: what all devices that have a drive share."""

"""Virtio: how its devices are reached."""

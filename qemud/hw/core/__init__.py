"""Devices of no particular kind."""

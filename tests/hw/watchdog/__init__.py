"""Tests of the room `hw/watchdog`."""

"""Tests of `qemud.block`."""

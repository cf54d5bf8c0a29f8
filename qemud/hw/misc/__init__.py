"""Devices that are like no other."""

"""Watchdogs: devices that act when the guest has not been heard of for too long."""

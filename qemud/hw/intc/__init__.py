"""Interrupt controllers and the timers that stand beside them."""

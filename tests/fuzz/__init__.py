"""Attacks on the real process: no input ends it, hangs it or shows a traceback.

Short and deterministic in CI; QEMUD_FUZZ_SECONDS makes every attack go on for so long, from a seed that is told on failure.
"""

"""Attacks on the real process: no input ends it, hangs it or shows a traceback.

Short by default; QEMUD_FUZZ_SECONDS makes every attack go on for so long, from a seed that is told on failure and can be given again
in QEMUD_FUZZ_SEED, as CI does for half a minute each. `pytest -rP` shows what came of the tries. Programs under attack cannot write
outside a directory of the test's own (`confined`).
"""

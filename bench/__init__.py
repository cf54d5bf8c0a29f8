"""How fast qemud is, beside Debian's QEMU in the same run: ``python -m bench`` writes SPECIFICATION.md.

A bench is a module with the rows of the table that it fills and a function `sample` that measures all of them once on one
program. The two programs take turns, so that whatever else the machine does meets both; the table has medians.
"""

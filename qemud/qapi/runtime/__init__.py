"""The small run-time of generated code.

check.py     JSON to typed values: `parse_arguments`, `parse_type`; fast where msgspec can be trusted
exact.py     the exact check behind it, which has QEMU's texts; shapes.py, the tables it walks
keyval.py    `key=value` to the same typed values; scalars.py, one parser for each scalar type
qemuopts.py  the older `key=value` syntax
wire.py      typed values to JSON
table.py     the command table's rows; events.py, what event emitters need
fields.py    the built-in types as generated structs name them
errors.py    the errors a client can be told of
"""

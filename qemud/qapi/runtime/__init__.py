"""The small run-time of generated code: input checks, errors, events, the command table's row type."""

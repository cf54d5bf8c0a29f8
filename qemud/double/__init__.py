"""A test double of an emulator, for people who test management software: QMP without a machine, and as badly behaved as asked.

    qemud double --scenario FILE -qmp unix:/tmp/qmp -qmp tcp:127.0.0.1:4444

Without a scenario it is a well-behaved server that answers every command of the schema with a plausible result.  A scenario
(JSON or TOML; `qemud double --schema` prints its JSON Schema) says where it is not: `qapi/double.json` describes it, and
docs/testing-management-software.md has examples.

    scenario     the file, checked
    plausible    results and data of events out of thin air
    player       one connection: rules and steps
    server       all connections, and what they have in common
    run          the command

No engine, no machine, no device is imported.
"""

"""The generators: a checked schema in, Python and data files out.

`build.build(schema, out)` runs them all; each module here makes one kind of file and none of them reads schema files:

    layout.py       which class every type becomes, in which module, and how other modules name it
    types.py        types/MODULE.py: enumerations, structs, unions
    shapes.py       shapes/MODULE.py: the compact tables the exact input check walks
    commands.py     commands/MODULE.py: the protocols handlers implement; table.py: the command table
    events.py       events/MODULE.py: typed emitters
    properties.py   properties.py: members of structs as the object model shows them
    introspect.py   introspection-TARGET.json: the answer to `query-qmp-schema`
    json_schema.py  json-schema-TARGET.json: JSON Schema 2020-12 of arguments, results and events
    client.py       client/: typed methods, events and types for `qemud.client`
    docs.py         reference pages in Markdown
    catalogue.py    the same by what users name: devices and options
    writer.py       headers, and files rewritten only when they change

All output is deterministic: the same schema gives the same bytes.
"""

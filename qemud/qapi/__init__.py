"""The schema room: the compiler of `qapi/*.json`, and the small run-time of what it generates.

    python -m qemud.qapi check SCHEMA…      is it right?
    python -m qemud.qapi build              generate qemud/_generated/

Front end, standard library only: `schema.load(path)` gives the `model` of a schema, or a `SchemaError` that is the whole
diagnostic.  On the way a file passes

    parser (lexer, docs)      files → expressions and documentation comments; include, pragma
    expressions (naming)      expressions → declarations: the shape of each definition
    symbols                   declarations → names: what is defined, and what that implies
    analysis (clashes, defaults)   names → model: what it means together

`names` spells wire names in Python for everyone.  `generate/` is the back end; `runtime/` is all that the daemon imports.
"""

"""The QEMU Machine Protocol: JSON requests and replies over a byte stream.

Read in this order; each page knows only those before it:

    values    what JSON becomes, errors and limits
    lexer     bytes → tokens            incremental, QEMU's tables
    parser    tokens → one JSON value   incremental, QEMU's grammar and error texts
    exact     bytes → JSON values       with the two above: where messages end, the limits
    framing   bytes → JSON values       a fast way for plain messages, else `exact`
    envelope  values ↔ requests, replies and events, as bytes
    session   the protocol of one client, without any I/O
    events    one event for all clients: time stamps and rate limits
    server    a session on a character device: the only page that does I/O

Source: QEMU 10.0, docs/interop/qmp-spec.rst, and what its implementation does where the specification is silent.
"""

"""The QEMU Machine Protocol: JSON requests and replies over a byte stream.

Read in this order; each page knows only those before it:

    lexer     bytes → tokens            incremental, QEMU's tables
    parser    tokens → one JSON value   incremental, QEMU's grammar and error texts
    framing   bytes → JSON values       the limits, and a fast path around the two above
    envelope  values ↔ requests, replies and events, as bytes
    session   the protocol of one client, without any I/O
    events    one event for all clients: time stamps and rate limits
    server    a session on a character device: the only page that does I/O

Source: QEMU 10.0, docs/interop/qmp-spec.rst, and what its implementation does where the specification is silent.
"""

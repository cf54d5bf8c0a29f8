"""Network Block Device: the server that exports nodes, and the node that is a disk of such a server.

    protocol.py     numbers and layouts of both sides
    wire.py         a connection: bytes exactly, with or without TLS
    handshake.py    the server's half of haggling over options
    connection.py   one client's requests
    contexts.py     what a client can ask of each byte: allocation, depth, dirty bitmaps
    exports.py      exports of nodes, and `block-export-add`
    server.py       who listens

Source: the NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; texts: QEMU 10.0, nbd/ and block/export/.
"""

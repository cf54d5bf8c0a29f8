"""Who is at the other end of a connection: credentials for TLS, and who may come in.

Objects that a client makes with object-add and names where a connection is made:

    creds = credentials(objects, "tls0", Endpoint.SERVER)       # credentials.py
    session = creds.session()                                   # session.py: TLS without I/O
    await shake_hands(sock, session)                            # handshake.py
    await authorize(objects, "authz0", session.peer_name())     # authz.py

Certificates are read by `certificate.py` and `names.py`, as far as QEMU looks into them.  Nothing here imports ssl before there are
credentials.
"""

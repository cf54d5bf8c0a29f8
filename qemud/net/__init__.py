"""Network backends: what is at the other end of a network card's cable.

`client.py` says how frames travel; `registry.py` knows all ends by name; each kind of backend has a file, and so has the card's
end, `nic.py`, which reaches into the machine thread.  Filters stand in a backend's way (`filters/`).
"""

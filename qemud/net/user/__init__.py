"""Networks of the guest's own, `-netdev user`: libslirp, by its C interface, in the event loop.

`config.py` checks the options and `rules.py` those for ports, `abi.py` is libslirp's interface, `stack.py` drives it, `backend.py`
is the end of the cable.  Nothing of it is imported before the first such backend is made.
"""

"""The built-in firmware: a Supervisor Binary Interface, version 2.0, on the host's side of the hart.

A kernel that is started without firmware of its own finds itself in S-mode with an SBI below, as over OpenSBI.  Here it has no code in
the guest: an `ecall` from S-mode comes out of the engine and is answered by `Firmware`, which hands it to one of the extensions.

    firmware.py   the device: delegation, start of the kernel, dispatch
    extension.py  what an extension is; error codes
    system.py     BASE, TIME, SRST, DBCN
    harts.py      IPI, RFENCE, HSM
    legacy.py     extensions 0 to 8 of version 0.1

Source: RISC-V Supervisor Binary Interface Specification, version 2.0, ratified January 2024.
"""

"""The process: its command line, its life cycle, its logs, and how systemd and shells meet it.

`main` takes the command line and returns the exit status; `startup` builds what the command line asks for, in the order of
the phases; `process` goes to the background and keeps the pid file; `systemd` talks to the service manager.
"""

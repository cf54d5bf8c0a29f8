"""The human monitor: lines of text in, text out.

It is a client of QMP: what it shows and does goes through the same commands, with the same checks and errors, as for programs.

    shell = Shell(dispatcher.execute)                       # one monitor's state
    await shell.run("info status")                          # what it prints

    monitor = HumanMonitor(chardev.attach(), dispatcher.execute, turn)   # the same with a prompt, editing, history and completion

- `table` lists the commands: how each is written, and the function that does it.  Names and help are the schema's (`qapi/hmp.json`).
- `arguments` and `expression` read a line; `shell` runs it; `completion` finds how it could go on.
- `editor` is what happens to a line before Return is pressed, without I/O; `terminal` puts it on a character device.
- `machine`, `memory`, `objects`, `chardevs`, `info` and `inventory` are the commands.
"""

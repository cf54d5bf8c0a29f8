"""Moving a machine from one process to another: so far, only what is agreed on beforehand."""

"""PCI: the host bridge, buses, bridges and root ports, and what every function on them has in common."""

"""Memory that firmware reads: its configuration."""

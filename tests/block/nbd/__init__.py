"""Tests of the NBD server and of disks of NBD servers."""

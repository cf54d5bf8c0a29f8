"""Tests of SCSI targets, by a driver of the host adapter."""

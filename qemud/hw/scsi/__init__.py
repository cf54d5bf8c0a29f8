"""SCSI targets: a bus, disks, drives for CDs.  A host adapter (`qemud.hw.virtio.scsi`) brings the commands."""

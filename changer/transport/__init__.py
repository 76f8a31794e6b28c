"""How SCSI commands reach a device."""

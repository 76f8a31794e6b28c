"""Media changers, drives and discs, over SCSI commands."""

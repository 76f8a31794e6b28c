"""Libraries without a robot: a person loads the drives, asked by operator tasks."""

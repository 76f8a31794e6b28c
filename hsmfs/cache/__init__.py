"""Disk tiers that hold file data."""

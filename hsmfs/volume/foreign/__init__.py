"""Discs that others wrote: bytes in, a tree out. See ``detect``."""

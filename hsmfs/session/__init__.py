"""Bindings of the engine to FUSE."""

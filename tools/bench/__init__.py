"""Benchmarks: the mount against the disk and against file systems in C; scale."""

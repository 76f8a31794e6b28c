"""Small benchmarks of the mount against the bare disk."""

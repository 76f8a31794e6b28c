"""hsmfs: a file system for hierarchical storage management."""

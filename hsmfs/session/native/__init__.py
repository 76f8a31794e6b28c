"""Our own session on /dev/fuse: requests read, answered and passed through in pure Python."""

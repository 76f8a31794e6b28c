"""What is recorded on one disc. Bytes in, bytes out."""

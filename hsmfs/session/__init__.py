"""Sessions: what connects the kernel's requests with the engine."""

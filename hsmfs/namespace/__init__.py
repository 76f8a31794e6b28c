"""The namespace engine: what the mount shows."""

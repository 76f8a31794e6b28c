"""Proof of namespace, cache and catalog against each other, and repairs."""

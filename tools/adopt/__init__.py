"""Taking files that lie on the cache's disk into the namespace."""

"""``hsm check``: a doctor that only looks."""

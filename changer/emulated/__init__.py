"""An emulated library of BD-R discs."""

"""The hsm command and its parts."""

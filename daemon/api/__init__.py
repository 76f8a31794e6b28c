"""The admin API of hsmd."""

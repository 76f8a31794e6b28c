"""Frames and messages between hsmfs and hsmd."""

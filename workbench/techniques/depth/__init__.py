"""Slot ``depth``: Which layers run for a token."""

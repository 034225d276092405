"""Slot ``context``: Which prompt tokens are computed, layer by layer."""

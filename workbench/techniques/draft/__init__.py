"""Slot ``draft``: A chain or tree of candidate tokens."""

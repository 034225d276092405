"""Slot ``logits``: The next-token distribution."""

"""Slot ``evict``: What stays in the key-value cache."""

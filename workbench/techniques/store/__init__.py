"""Slot ``store``: In what form and where the key-value cache is kept."""

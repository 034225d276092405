"""Slot ``store``: In what form and where keys and values are kept."""

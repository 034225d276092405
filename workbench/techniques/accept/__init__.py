"""Slot ``accept``: Which drafted tokens are kept."""

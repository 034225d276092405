"""Slot ``attention``: Which keys a decode query reads."""

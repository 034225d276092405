"""Slot ``switch``: Which model takes the next step."""

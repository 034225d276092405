"""Slot ``stop``: When to end."""

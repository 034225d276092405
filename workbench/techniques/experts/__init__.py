"""Slot ``experts``: Which experts run, and where they live."""

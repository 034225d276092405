"""Slot ``draft_length``: How much of a draft is worth making and verifying."""

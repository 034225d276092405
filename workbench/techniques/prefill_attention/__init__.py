"""Slot ``prefill_attention``: Which keys a prompt query reads."""

"""Slot ``mlp``: Which neurons or sublayers of a dense block run."""

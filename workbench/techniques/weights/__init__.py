"""Slot ``weights``: What the weights, or whole sublayers, are before the run."""

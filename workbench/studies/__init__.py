"""Runs and what is made of them: observe a prompt, run a recipe, compare recipes side by side."""

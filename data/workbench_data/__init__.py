"""Data that travels with the workbench: prompts, long texts, and small trained parts with their recipes."""

"""What is trained and works inside techniques, by kind: draft heads, lookahead rows, draft models, acceptance heads."""

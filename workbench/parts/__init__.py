"""What is trained and works inside techniques, by kind: heads, lookahead rows, draft models, lenses, acceptance."""

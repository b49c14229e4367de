"""Many scenes: which ones a command names, and one run after another."""

"""Comparison of systems on the same test examples: metrics, result rows, paired intervals."""

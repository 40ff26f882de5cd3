"""Comparison of systems on the same test examples: metrics, long rows of results, paired intervals."""

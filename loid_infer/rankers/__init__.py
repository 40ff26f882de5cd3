"""Models that rank the items of a domain for a user: counts, matrix factorization, sequence networks, texts."""

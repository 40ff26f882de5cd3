"""Encoding on several machines: shards of a corpus, computed anywhere, joined into one store."""

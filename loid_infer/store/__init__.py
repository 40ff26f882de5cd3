"""Storage of vectors in LMDB, one environment per spec."""

"""Vectors on disk, one LMDB environment a spec."""

"""Benchmarks: one question a file, each rival in its own process, results committed with machine and versions."""

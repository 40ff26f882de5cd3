"""Plugins: what is added to a base's weights, on disk and in memory."""

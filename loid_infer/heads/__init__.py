"""The LoID head, which predicts ratings from stored vectors, and its baselines."""

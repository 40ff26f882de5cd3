"""Training of any model by gradient steps: one loop and its checkpoints."""

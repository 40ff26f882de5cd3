"""LoRA plugins: training, merging, import, and folding into the weights of a base."""

"""Token ids in, vectors out: one runtime a file behind one protocol, and the tokens and batches that feed them."""

"""Model families, one module each, and the transformer that they configure."""

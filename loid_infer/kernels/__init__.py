"""Pure formulas: arrays in, arrays out; no paths, no settings, no hidden randomness."""

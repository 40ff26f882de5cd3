"""Pure functions of arrays: formulas without files, settings or global random state."""

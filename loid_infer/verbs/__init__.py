"""One file per verb: parse nothing, print nothing, take a workspace and settings, return a frozen result."""

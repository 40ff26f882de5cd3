"""The command line: parse, call one verb, print. Nothing is computed here."""

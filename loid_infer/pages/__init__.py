"""Pages for people, made of markup and drawings alone: what a browser shows without a script, a font or a network."""

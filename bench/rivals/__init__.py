"""Other ways to turn the same texts into vectors. Each has a `LABEL` and `prepare(folder, max_tokens)`, which gives the
function from texts to vectors."""

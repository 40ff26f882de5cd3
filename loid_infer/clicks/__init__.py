"""Models of labeled pairs: whether a user likes an item, by interactions, by a language model, or by both (CoRA)."""

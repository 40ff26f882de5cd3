"""Model families: what is particular to each in one file, and the transformer that all of them are put together as."""

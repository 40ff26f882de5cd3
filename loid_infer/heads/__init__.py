"""Small models that read cached vectors and give ratings."""

"""Domains, tables of reviews, splits, histories, and synthetic samples."""

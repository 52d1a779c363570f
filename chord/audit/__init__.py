"""Audit: where a result comes from, on a terminal, on a page and as a crate."""

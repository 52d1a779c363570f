"""Data: problems, expert traces and models."""

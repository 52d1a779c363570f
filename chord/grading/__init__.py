"""Grading: whether an answer is right, and what reward it earns."""

"""Evaluation: answers to benchmarks, and their scores."""

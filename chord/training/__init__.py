"""Training: one arm, from a start model to a trained one."""

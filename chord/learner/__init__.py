"""From sequences to gradients: packing, the policy forward, distributed sums, checkpoints."""

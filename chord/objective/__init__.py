"""The maths of CHORD (arXiv:2508.11408): pure functions of numbers and tensors; no files, no config, no hardware."""

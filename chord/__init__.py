"""CHORD (arXiv:2508.11408), reproduced: verbs on top, nouns in rooms, maths and provenance on the ground."""

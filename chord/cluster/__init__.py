"""Cluster: what jobs cost, what a cluster offers, and jobs while they run."""

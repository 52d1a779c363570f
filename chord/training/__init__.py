"""A training run: what a step is fed, how it is set up and told of, and where its weights go."""

"""From prompts to sampled responses. A sampler knows tokens; it does not know text, tasks or rewards."""

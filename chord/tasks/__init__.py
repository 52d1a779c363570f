"""Problems, prompts, answers, tool calls, rewards, benchmarks: all that knows text; imports no torch."""

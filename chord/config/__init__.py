"""What an experiment is: typed, frozen, unknown keys refused. Knows YAML; knows no torch and no results folder."""

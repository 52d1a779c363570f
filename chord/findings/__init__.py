"""What the results say: statistics, tables, curves, claims and parts of the page."""

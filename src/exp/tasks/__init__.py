"""Tasks: what to do with the chosen experiment. `base` holds the contract; every other file is one task."""

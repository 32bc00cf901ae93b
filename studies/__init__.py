"""Programs that run many experiments, and what they make of them; they write `results/`."""

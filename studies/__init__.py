"""Programs that run many experiments and write their results to `results/`."""

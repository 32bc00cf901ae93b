"""Batches, the objective, and the loop that trains all three models."""

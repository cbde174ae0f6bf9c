"""One training step, operation by operation: every number with its gradient, and the line that computes it."""

"""Training runs: prepare, train, resume, report, measure."""

"""Pages of the web as text to train on: politely, and without reaching what the web should not reach."""

"""Text on disk or on the web → documents → tokens → rows to train on."""

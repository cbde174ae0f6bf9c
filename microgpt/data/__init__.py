"""Text on disk or on the web → documents → tokens → what an engine is fed."""

"""Many runs at once: sweeps over settings."""

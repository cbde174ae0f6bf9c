"""From Python to machine code in memory: compiled once, cached on disk, loaded without the compiler."""

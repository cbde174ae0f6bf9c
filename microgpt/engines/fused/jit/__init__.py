"""From Python to machine code in memory: compiled once, kept on disk, loaded without the compiler."""

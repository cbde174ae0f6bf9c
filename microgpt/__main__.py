"""`python -m microgpt` is `microgpt`."""

from microgpt.cli import script

if __name__ == "__main__":
    script()

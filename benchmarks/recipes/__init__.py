"""The recipes of microgpt/recipes/table.py: the search that measured them, and the figures that they reach."""

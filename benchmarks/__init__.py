"""How fast the engines are, against peers doing the same work: one script a row family, `make bench` for all."""

"""What things cost: `make bench`, or `make bench ARGS="proxied"` for some of the tables."""

"""One module for each benchmark: see bench/README.md, "A benchmark"."""

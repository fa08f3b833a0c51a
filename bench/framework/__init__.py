"""The bench's frame: what every benchmark uses. bench/README.md says how a benchmark is written."""

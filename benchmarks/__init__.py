"""Each figure that the project promises, beside hand-written Python that does only that. Run `python -m benchmarks`."""

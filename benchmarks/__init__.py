"""Speed and memory of each phase against a plain reference of the same mathematics: `python -m benchmarks`."""

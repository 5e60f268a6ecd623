"""The benchmarks: `python -m bench` measures every figure that the README claims. bench/README.md has the method."""

"""Run a model of any backend, and measure its latency, memory and size."""

"""Quantization: a student in fewer bits, one file a backend."""

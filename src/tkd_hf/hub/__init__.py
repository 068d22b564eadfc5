"""Publish a model on the Hub: write its card, upload its files, and verify the uploaded model."""

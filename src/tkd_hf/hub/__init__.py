"""Publish a model on the Hub: choose its files, upload them, and verify the uploaded model."""

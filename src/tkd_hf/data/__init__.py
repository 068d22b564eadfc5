"""From examples to features: tasks, loading, tokenisation and collation."""

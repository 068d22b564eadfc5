"""Turn examples into features: tasks, loading, tokenization and collation."""

"""A miniature nanochat as of July 2026 (generation E)."""

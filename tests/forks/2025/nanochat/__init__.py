"""A miniature nanochat as of November 2025 (generation A)."""

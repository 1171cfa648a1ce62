"""The built-in start methods, one per file."""

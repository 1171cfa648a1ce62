"""A plugin whose own dependency is missing."""

raise ImportError("cannot import name 'engine' from 'procession_test_engine'")

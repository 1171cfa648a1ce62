"""The start methods that come with procession, one in a file."""

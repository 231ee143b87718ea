"""Benchmarks of your own: a file with one question a line, about videos beside it."""

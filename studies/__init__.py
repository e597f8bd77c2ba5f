"""Experiments: each reproduces what a paper claims on the package's public API."""

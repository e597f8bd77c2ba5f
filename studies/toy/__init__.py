"""Autoguidance's example in two dimensions (Karras et al. 2024, arXiv:2406.02507, appendix C)."""

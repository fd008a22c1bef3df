"""MATRIX-Gen: scenarios become instructions, responses and preference pairs (paper sections 2 and 4)."""

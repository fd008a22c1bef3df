"""MATRIX: a society of agents in homophily groups whose lives give scenarios (paper section 3)."""

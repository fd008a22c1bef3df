"""Evaluation: a model's answers judged against a reference, by AlpacaEval 2 and Arena-Hard v0.1 (paper section 4.1)."""

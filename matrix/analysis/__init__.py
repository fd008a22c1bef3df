"""Analysis: what a set of training rows is made of, measured once and kept beside it."""

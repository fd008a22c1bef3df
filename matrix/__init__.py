"""MATRIX / MATRIX-Gen: post-training data from multi-agent social simulation, and what it was worth.

Start reading at `matrix/pipeline.py`: it is the whole experiment on one page.
"""

__version__ = "0.1.0"

"""`python -m matrix`, the same as the console script `matrix`."""

from matrix.cli import main

main()

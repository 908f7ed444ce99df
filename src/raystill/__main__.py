"""`python -m raystill`."""

from raystill.cli import main

main()

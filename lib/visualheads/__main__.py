"""`python -m visualheads`: the command line."""

from visualheads.cli import main

main()

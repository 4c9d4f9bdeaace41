"""``python -m tercet.cli``."""

from tercet.cli.main import main

main()

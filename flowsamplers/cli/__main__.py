"""``python -m flowsamplers.cli``."""

from flowsamplers.cli import main

main()

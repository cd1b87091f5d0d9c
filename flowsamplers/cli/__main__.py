"""``python -m flowsamplers.cli``."""

from flowsamplers.cli import main

main(prog_name="flowsamplers")

"""The former name of `flowsamplers.engine`, until the last branch has moved."""

from flowsamplers.engine import *  # noqa: F403

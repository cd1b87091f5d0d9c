"""Import what registers names before pytest imports one of its files alone, which would register the file's names twice."""

import flowsamplers.samplers
import flowsamplers.schedules  # noqa: F401

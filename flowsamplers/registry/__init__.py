"""The registry: samplers, schedules, flows and metrics by name, including those of other packages.

A package adds its own through an entry point. The names of all entry points are read once. The code of an entry point is
imported when its name is requested, or when everything is listed. If it cannot be loaded, a list shows a warning, and a request
by name raises an error. If two things have one name, the error names both.

Every argument that takes a name also takes a *specification*, ``name:option=value,option=value``.
"""

from flowsamplers.registry.names import *
from flowsamplers.registry.others import *
from flowsamplers.registry.samplers import *
from flowsamplers.registry.schedules import *
from flowsamplers.registry.specifications import *

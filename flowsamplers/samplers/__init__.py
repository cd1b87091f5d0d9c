"""The samplers, one family per file. Importing this package registers them all, in this order.

| | for the velocity | for the data prediction |
| --- | --- | --- |
| ODE, one step | `runge_kutta`, `implicit`, `adaptive` | `exponential_rk` |
| ODE, multistep | `multistep` | `exponential`, `unipc` |
| SDE, one step | | `stochastic` (order 1), `exponential_rk_sde` |
| SDE, multistep | | `exponential_sde`, `sa_solver` |

`wrappers` change another sampler, `learned` takes its coefficients from a table, and `compat` is for parity. They share `policies` (first
and last steps), `tableaux`, `interpolation` and `sde`.
"""

# isort: off
from flowsamplers.samplers.euler import *
from flowsamplers.samplers.policies import *
from flowsamplers.samplers.tableaux import *
from flowsamplers.samplers.runge_kutta import *
from flowsamplers.samplers.multistep import *
from flowsamplers.samplers.exponential import *
from flowsamplers.samplers.unipc import *
from flowsamplers.samplers.exponential_rk import *
from flowsamplers.samplers.wrappers import *
from flowsamplers.samplers.implicit import *
from flowsamplers.samplers.adaptive import *
from flowsamplers.samplers.compat import *
from flowsamplers.samplers.stochastic import *
from flowsamplers.samplers.exponential_sde import *
from flowsamplers.samplers.exponential_rk_sde import *
from flowsamplers.samplers.sa_solver import *
from flowsamplers.samplers.learned import *

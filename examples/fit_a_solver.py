"""Fit a solver to one model, save it, load it, and compare it with a sampler of the catalogue on new noise."""

import tempfile
from pathlib import Path

import flowsamplers as fs

flow = fs.flows.MixtureFlow.random(0)  # replace flow.velocity by your model
solver = fs.fit(flow.velocity, flow.noise(list(range(64))), nfe=8)
path = Path(tempfile.mkdtemp()) / "my-model-8.json"
solver.save(path)

loaded = fs.load_solver(path)
x1 = flow.noise(list(range(1000, 1032)))  # noise that the fit has not seen
truth = flow.solution(x1)
for name, grid, sampler in (
    ("fitted, 8 calls", loaded.grid, loaded.sampler),
    ("unipc, 8 calls", fs.schedules.linear(8), "unipc"),
    ("euler, 50 calls", fs.schedules.linear(50), "euler"),
):
    error = ((fs.sample(flow.velocity, x1, grid, sampler) - truth).norm() / truth.norm()).item()
    print(f"{name:16} relative error {error:.4f}")

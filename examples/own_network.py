"""Train a small network on 2-D data, and measure samplers on it."""

import tempfile

import torch

import flowsamplers as fs

torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2)
)
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
for _ in range(800):
    angle = 2 * torch.pi * torch.rand(256)
    x0 = torch.stack([angle.cos(), angle.sin()], dim=1)  # the data: a ring
    noise, sigma = torch.randn(256, 2), torch.rand(256, 1)
    v = network(torch.cat([(1 - sigma) * x0 + sigma * noise, sigma], dim=1))
    loss = (v - (noise - x0)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Ring:
    """The velocity field of the network; `shape` is the shape of one row."""

    shape = (2,)

    def velocity(self, x, sigma, condition=None):
        """The velocity at x, with one sigma for each row."""
        with torch.no_grad():
            return network(torch.cat([x, sigma[:, None].to(x.dtype)], dim=1))


study = fs.study.Study(flow=Ring(), samplers=("euler", "heun", "fireflow"), nfe=(4, 8, 16), seeds=range(8))
results = study.run(tempfile.mkdtemp())
for calls in (4, 8, 16):
    name, error = results.best(nfe=calls)
    print(f"{calls:2} model calls: {name} has the smallest error, {error:.1%}")

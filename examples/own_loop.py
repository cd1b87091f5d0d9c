"""Sample in your own loop, with a preview of the data after each step."""

import flowsamplers as fs

flow = fs.flows.MixtureFlow.random(0)  # replace flow.velocity by your model: velocity(x, sigma) -> v
x1 = flow.noise(range(4))
grid = fs.schedules.flux2(steps=8, tokens=4096)


def show(end):
    """Print how far the preview is from the current latents."""
    distance = (end.preview - end.x).norm().item()
    print(f"step {end.index + 1} of {end.count}: sigma {end.sigma:.3f}, preview differs by {distance:.2f}")


x0 = fs.sample(flow.velocity, x1, grid, "fireflow", on_step=show)
print(f"{fs.nfe('fireflow', grid)} model calls, relative error {((x0 - flow.solution(x1)).norm() / x0.norm()).item():.3f}")

# The same run in a loop that you own: the stepper says where to call the model, and you pass the velocity back.
stepper = fs.Stepper(fs.get_sampler("fireflow"), grid, x1)
sigmas = [call.sigma for call in fs.dry_run("fireflow", grid)]
for sigma in sigmas:
    stepper.tell(flow.velocity(stepper.point, x1.new_full((len(x1),), sigma)))
print(f"the two loops differ by {(stepper.point - x0).abs().max().item():.1e}")

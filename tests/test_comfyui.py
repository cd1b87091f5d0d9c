"""ComfyUI's contract, kept by a stand-in: the sampler function is `flowsamplers.sample` on the same velocity."""

import dataclasses
import logging

import pytest
import torch

import flowsamplers as fs
from flowsamplers_comfyui import host, schedule, work

SHAPES = {"image": (3, 4, 6, 6), "video": (2, 4, 3, 4, 4), "pack": (2, 1, 40), "audio": (2, 4, 10)}
SAMPLERS = [info for info in fs.list_samplers() if not info.adaptive]
ADAPTIVE = [info for info in fs.list_samplers() if info.adaptive]


class Const:
    """A flow's kind, as ComfyUI's models bring it along."""

    def __init__(self, noise_scale=1.0):
        self.noise_scale = noise_scale

    def calculate_input(self, sigma, x):
        return x

    def calculate_denoised(self, sigma, output, x):
        return x - output * sigma

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return sigma * self.noise_scale * noise + (1 - sigma) * latent

    def inverse_noise_scaling(self, sigma, x):
        return x / (1 - sigma)


class EPS(Const):
    """Variance exploding: not a flow."""

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return noise * sigma + latent


class Guider:
    """A model with ComfyUI's rule at sigma 0: it returns what it was given."""

    def __init__(self, sampling=None):
        self.model_sampling = sampling or Const()
        self.asked = []

    def __call__(self, x, sigma, model_options=None, seed=None):
        self.asked.append(float(sigma[0]))
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(s == 0, x, x - s * field(x, s))


def field(x, s):
    """The velocity of a Gaussian with a bend in it."""
    return (s - 0.25 * (1 - s)) * x / (s * s + 0.25 * (1 - s) ** 2) + 0.1 * torch.sin(3 * x)


class Wrapped:
    """What a sampler function is given: the guider, with the masks at every call."""

    def __init__(self, guider, noise, latent, mask=None):
        self.inner_model, self.noise, self.latent, self.mask = guider, noise, latent, mask

    def __call__(self, x, sigma, denoise_mask=None, model_options=None, seed=None):
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        if self.mask is not None:
            kept = self.inner_model.model_sampling.noise_scaling(s, self.noise, self.latent)
            x = x * self.mask + kept * (1 - self.mask)
        denoised = self.inner_model(x, sigma)
        return denoised if self.mask is None else denoised * self.mask + self.latent * (1 - self.mask)


def run(sigmas, noise, latent=None, mask=None, seed=5, guider=None, callback=None, **options):
    """What KSAMPLER.sample does, and the same by `flowsamplers.sample`: both results, and the guider."""
    guider = guider or Guider()
    latent = torch.zeros_like(noise) if latent is None else latent
    model = Wrapped(guider, noise, latent, mask)
    x = guider.model_sampling.noise_scaling(sigmas[0], noise, latent)
    result = host.flow_sampler(model, x, sigmas, {"seed": seed}, callback, True, **options)
    return result, x, model


def directly(model, x, sigmas, sampler, seed=5, last=host.AUTO):
    grid, _ = host.grid_of(sigmas)

    def velocity(x, sigma):
        return (x - model(x, sigma)) / sigma.reshape(-1, *[1] * (x.ndim - 1))

    (method, grid), *rest = host.with_end(sampler, grid, last)
    assert not rest
    noise = fs.KeyedNoise(list(host.seeds_of(model, x, seed)))
    return fs.sample(velocity, x, grid, method, seed=noise), method, grid


def normal(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sigmas(steps=5, start=1.0, end=0.0):
    return torch.linspace(start, end, steps + 1)


@pytest.mark.parametrize(
    ("name", "kind"), [(i.name, "image") for i in SAMPLERS] + [(n, k) for n in ("heun", "lcm") for k in SHAPES if k != "image"]
)
def test_every_sampler_equals_direct_sampling_bit_for_bit_and_makes_the_calls_of_the_dry_run(name, kind):
    """None of them at sigma 0."""
    result, x, model = run(sigmas(), normal(SHAPES[kind]), sampler=name)
    asked = [*model.inner_model.asked]
    expected, method, grid = directly(model, x, sigmas(), name)
    assert torch.equal(result, expected)
    assert torch.isfinite(result).all()
    assert len(asked) == fs.nfe(method, grid)
    assert min(asked) > 0
    assert (result.dtype, result.shape) == (x.dtype, x.shape)


@pytest.mark.parametrize("info", SAMPLERS, ids=lambda i: i.name)
def test_an_image_is_the_same_alone_in_any_batch_and_at_any_place(info):
    noise = normal((4, 3, 4, 4))
    whole, _, _ = run(sigmas(4), noise, sampler=info.name)
    turned, _, _ = run(sigmas(4), noise.flip(0), sampler=info.name)
    alone, _, _ = run(sigmas(4), noise[2:3], sampler=info.name)
    tight = 64 * torch.finfo(torch.float32).eps * whole.abs().max()
    assert (turned.flip(0) - whole).abs().max() <= tight
    assert (alone - whole[2:3]).abs().max() <= tight


def test_equal_images_of_a_batch_get_noise_of_their_own():
    x = normal((1, 3, 4, 4)).repeat(3, 1, 1, 1)
    result, _, _ = run(sigmas(4), torch.zeros_like(x), x, sampler="lcm")
    assert not torch.equal(result[0], result[1])
    assert not torch.equal(result[1], result[2])


def test_another_seed_gives_other_noise_and_the_nodes_own_seed_comes_first():
    noise = normal((2, 3, 4, 4))
    one, two = (run(sigmas(4), noise, sampler="lcm", seed=s)[0] for s in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(run(sigmas(4), noise, sampler="lcm", seed=2, noise_seed=1)[0], one)


@pytest.mark.parametrize(
    "info", [i for i in SAMPLERS if i.stochastic and i.factory.noise_option in i.options], ids=lambda i: i.name
)
def test_nothing_is_drawn_when_the_noise_is_turned_off(info, monkeypatch):
    def refuse(*args):
        raise AssertionError("a draw")

    monkeypatch.setattr(host.ImageNoise, "__call__", refuse)
    result, *_ = run(
        sigmas(), normal((2, 3)), seed=None, sampler={"name": info.name, "options": {info.factory.noise_option: 0}}
    )
    assert torch.isfinite(result).all()


def test_a_stochastic_sampler_without_a_seed_is_refused():
    with pytest.raises(ValueError, match="seed=None"):
        run(sigmas(), normal((2, 3)), sampler="lcm", seed=None)


def test_fresh_noise_has_the_scale_of_the_models_noise():
    noise = normal((1, 40_000))
    guider = Guider(Const(noise_scale=3.0))
    guider.__class__ = type("Zero", (Guider,), {"__call__": lambda self, x, sigma, **_: torch.zeros_like(x)})
    result, _, _ = run(torch.tensor([1.0, 0.5]), noise, guider=guider, sampler="lcm")
    assert abs(result.std().item() - 1.5) < 5 * 1.5 / 40_000**0.5  # five standard errors


@pytest.mark.parametrize("info", SAMPLERS, ids=lambda i: i.name)
def test_half_denoised_and_masked_runs_equal_direct_sampling_and_the_picture_stays_outside_the_mask(info):
    noise, latent = normal((2, 3, 6, 6)), normal((2, 3, 6, 6), seed=1)
    mask = torch.zeros(2, 1, 6, 6)
    mask[..., 2:] = 1.0
    tail = sigmas(8)[4:]
    result, x, model = run(tail, noise, latent, mask, sampler=info.name)
    expected, _, _ = directly(model, x, tail, info.name)
    assert torch.equal(result, expected)
    kept = (result - latent)[..., :2].abs().max()
    assert info.stochastic or kept <= 200 * torch.finfo(torch.float32).eps * latent.abs().max()


@pytest.mark.parametrize("info", ADAPTIVE, ids=lambda i: i.name)
def test_methods_that_choose_their_calls_end_on_the_last_sigma_but_one(info):
    seen = []
    result, _, model = run(sigmas(), normal((2, 3)), callback=seen.append, sampler=info.name)
    assert torch.isfinite(result).all()
    assert min(model.inner_model.asked) > 0
    steps = [at["i"] for at in seen]
    assert steps[-1] == 4
    assert len(steps) == len(model.inner_model.asked)
    with pytest.raises(ValueError, match="sigma 0"):
        run(sigmas(), normal((2, 3)), sampler=info.name, last=host.OWN)


def test_an_end_that_was_chosen_keeps_the_order_of_the_method():
    for info in SAMPLERS:
        [(method, _)] = host.with_end(info.name, fs.schedules.linear(4))
        assert method.order == info.order, info.name


def test_a_run_that_would_ask_at_sigma_0_is_refused_when_the_last_step_is_the_samplers_own():
    with pytest.raises(ValueError, match=r"Heun asks for the velocity at sigma 0.*euler, midpoint"):
        run(sigmas(), normal((1, 3)), sampler="heun", last=host.OWN)
    with pytest.raises(ValueError, match="begins above 0"):
        run(sigmas().flip(0)[:-1], normal((1, 3)), sampler="midpoint")


def test_a_last_step_for_a_sampler_without_one_is_refused():
    with pytest.raises(ValueError, match="Euler has no such option"):
        run(sigmas(), normal((1, 3)), sampler="euler", last="midpoint")


def test_inversion_goes_up_and_comes_back():
    flipped = sigmas(400).flip(0)[:-1].clone()
    flipped[0] = 1e-4  # as ComfyUI's FlipSigmas writes it
    x = normal((2, 8), seed=3)
    up = host.flow_sampler(Guider(), x, flipped, {}, None, True, sampler="midpoint")
    back = host.flow_sampler(Guider(), up, flipped.flip(0), {}, None, True, sampler="midpoint")
    assert (back - x).abs().max() < 1e-2
    with pytest.raises(ValueError, match="draws noise"):
        host.flow_sampler(Guider(), x, flipped, {"seed": 0}, None, True, sampler="lcm")


def test_an_end_at_sigma_1_is_refused_because_comfyui_divides_by_0_there():
    rising = torch.tensor([1e-4, 0.5, 1.0])
    with pytest.raises(ValueError, match="divides the result by 1 - sigma"):
        host.flow_sampler(Guider(), normal((1, 3)), rising, {}, None, True)


@pytest.mark.parametrize("empty", [torch.empty(0), torch.tensor([0.5])])
def test_no_sigmas_leave_the_latents_as_they_are(empty):
    x = normal((2, 3))
    assert host.flow_sampler(Guider(), x, empty, {}, None, True) is x


def test_repeated_sigmas_are_no_step_and_steps_keep_their_number():
    seen = []
    repeated = torch.tensor([1.0, 0.6, 0.6, 0.0])
    result, _, _ = run(repeated, normal((2, 3)), callback=seen.append)
    assert torch.equal(result, run(torch.tensor([1.0, 0.6, 0.0]), normal((2, 3)))[0])
    assert [at["i"] for at in seen] == [0, 2]


def test_models_of_another_kind_are_refused_by_name():
    with pytest.raises(ValueError, match="kind EPS"):
        run(sigmas(), normal((1, 3)), guider=Guider(EPS()))


def test_the_callback_is_told_after_every_call():
    seen = []
    noise = normal((2, 3))
    _, x, model = run(sigmas(3), noise, callback=seen.append, sampler="midpoint")
    assert [at["i"] for at in seen] == [0, 0, 1, 1, 2, 2]
    assert [float(at["sigma"]) for at in seen] == model.inner_model.asked
    assert torch.equal(seen[0]["x"], x)
    for at in seen:
        assert set(at) == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert torch.equal(at["denoised"], model(at["x"], at["sigma"].expand(2)))


def test_an_interruption_ends_the_run_and_the_next_one_is_not_changed_by_it():
    class StopError(Exception):
        pass

    def stop(at):
        if at["i"] == 2:
            raise StopError

    noise = normal((2, 3, 4, 4))
    kept = noise.clone()
    before = run(sigmas(), noise, sampler="dpmpp_2m_sde")[0]
    with pytest.raises(StopError):
        run(sigmas(), noise, sampler="dpmpp_2m_sde", callback=stop)
    assert torch.equal(run(sigmas(), noise, sampler="dpmpp_2m_sde")[0], before)
    assert torch.equal(noise, kept)
    assert torch.is_grad_enabled()


def test_half_precision_latents_keep_their_dtype():
    result, _, _ = run(sigmas(), normal((2, 3)).bfloat16(), sampler="heun")
    assert result.dtype == torch.bfloat16


# --- schedules


@pytest.mark.parametrize("info", fs.list_schedules(), ids=lambda i: i.name)
def test_every_schedule_is_the_librarys_own(info):
    options = schedule.options_for(info.name, {}, tokens=1024, shift=None)
    given = {"options": {"sigmas": [1.0, 0.5, 0.25]}} if info.name == "flow_match_euler" else {}
    count = 3 if given else 6
    made = schedule.sigmas_of(info.name, count, tokens=1024, **given)
    expected = fs.get_schedule(info.name, count, **{**options, **given.get("options", {})})
    assert torch.equal(made, torch.tensor(expected.sigmas))
    assert made.dtype == torch.float32


def test_a_budget_is_spent_and_not_exceeded():
    for info in SAMPLERS:
        made = schedule.sigmas_of("flux2", 12, sampler=info.name)
        _, _, model = run(made, normal((1, 3)), sampler=info.name)
        assert len(model.inner_model.asked) <= 12, info.name
    with pytest.raises(ValueError, match="one step of this sampler takes"):
        schedule.sigmas_of("flux2", 1, sampler="midpoint")


def test_denoise_start_and_edits():
    assert schedule.sigmas_of("linear", 4, denoise=0.0).numel() == 0
    assert schedule.sigmas_of("linear", 4, start=0.6).tolist() == pytest.approx([0.6, 0.5, 0.25, 0.0])
    flipped = schedule.sigmas_of("linear", 2, edits={"first": 1, "reverse": 1e-4})
    assert flipped.tolist() == [0.5, 1.0]
    assert schedule.sigmas_of("linear", 2, edits={"reverse": 1e-4})[0] == torch.tensor(1e-4)
    with pytest.raises(ValueError, match=r"edit 'split'.*split_last"):
        schedule.sigmas_of("linear", 2, edits={"split": 1})


class DiscreteFlow(Const):
    shift, sigmas = 3.0, torch.zeros(1000)


class ModelSamplingFlux(Const):
    shift, sigmas = 1.15, torch.zeros(10_000)


class Holder:
    def __init__(self, sampling):
        self.model_sampling = sampling


def test_the_shift_is_the_models_own():
    sd3, flux = (schedule.model_shift(Holder(kind())) for kind in (DiscreteFlow, ModelSamplingFlux))
    expected = fs.get_schedule("simple", 6, shift=3.0, points=1000)
    assert torch.equal(schedule.sigmas_of("simple", 6, shift=sd3), torch.tensor(expected.sigmas))
    expected = fs.get_schedule("simple", 6, mu=1.15)
    assert torch.equal(schedule.sigmas_of("simple", 6, shift=flux), torch.tensor(expected.sigmas))
    expected = fs.get_schedule("flux2", 6, mu=1.15)
    assert torch.equal(schedule.sigmas_of("flux2", 6, tokens=77, shift=flux), torch.tensor(expected.sigmas))


def test_schedules_enter_the_menu_of_the_stock_sampler_once():
    class Handler(tuple):
        __slots__ = ()

        def __new__(cls, handler, use_ms=True):
            return super().__new__(cls, (handler, use_ms))

    names = ["simple"]
    samplers = type("Samplers", (), {})()
    samplers.SCHEDULER_HANDLERS, samplers.SCHEDULER_NAMES, samplers.SchedulerHandler = {"simple": None}, names, Handler
    samplers.KSampler = type("KSampler", (), {"SCHEDULERS": names})
    new = schedule.register_stock(samplers)
    assert names == ["simple", *new]
    assert "flow_flux2" in new
    assert schedule.register_stock(samplers) == []
    for name in new:
        made = samplers.SCHEDULER_HANDLERS[name][0](DiscreteFlow(), 6)
        assert bool((made.diff() < 0).all()), name


# --- the measuring nodes


@pytest.mark.parametrize(("sampler", "noise_scale", "calls"), [("heun", 1.0, 9), ("lcm", 3.0, 5)])
def test_an_inspected_run_is_the_run(sampler, noise_scale, calls):
    noise = normal((2, 3, 4, 4))
    result, x, model = run(sigmas(), noise, sampler=sampler, guider=Guider(Const(noise_scale)))
    found = work.inspect(host.Velocity(model), x, sigmas(), sampler, seed=5)
    assert torch.equal(found.x0, result)
    assert len(found.rows) == calls
    assert found.total == pytest.approx(-1)
    assert work.plot_inspection(found).shape[-1] == 3


@pytest.mark.parametrize("nothing", [torch.empty(0), torch.tensor([0.5]), torch.tensor([0.5, 0.5])])
def test_a_run_without_a_step_is_refused_before_its_calls_are_counted(nothing):
    with pytest.raises(ValueError, match="at least two different sigmas"):
        work.calls_of("heun", nothing)


def test_a_study_keeps_its_budget_and_its_numbers_are_errors():
    noise = normal((2, 8))
    guider = Guider()
    model = Wrapped(guider, noise, torch.zeros_like(noise))
    what = work.plan(["euler", "heun"], [4, 16], fs.schedules.linear, 600)
    found = work.study(host.Velocity(model), noise, what)
    assert len(guider.asked) <= what.calls <= 600
    exact = fs.reference.solve(DirectFlow(), noise.double())
    for error, picture in zip(found.errors, found.pictures, strict=False):
        truly = float(((picture - exact.x0).norm(dim=1) / exact.x0.norm(dim=1)).mean())
        assert abs(error - truly) <= 2 * found.reference_error + 1e-5
    assert "At 16 model calls heun has the smallest error" in str(found)
    assert work.plot_study(found).shape[0] == 1
    with pytest.raises(ValueError, match="budget=40"):
        work.plan(["euler"], [4], fs.schedules.linear, 40)


def test_a_fit_needs_no_velocity_at_sigma_0():
    noise = normal((16, 4))
    model = Wrapped(Guider(), noise, torch.zeros_like(noise))
    solver = fs.fit(host.Velocity(model), noise, 4, rounds=0)
    assert solver.validation is not None
    assert solver.validation.solver.error < solver.validation.others[0].error
    assert 0.0 in model.inner_model.asked  # Heun's method of those beside it asked there, and is left out


def test_the_two_parts_of_a_split_schedule_are_the_whole_run_for_methods_of_one_step():
    noise = normal((2, 3, 4, 4))
    for info in SAMPLERS:
        method = fs.get_sampler(info.name)
        if method.multistep or method.stochastic or method.look_ahead:
            continue
        whole, x, model = run(sigmas(6), noise, sampler=info.name)
        high = host.flow_sampler(model, x, sigmas(6)[:4], {}, None, True, sampler=info.name)
        parts = host.flow_sampler(model, high, sigmas(6)[3:], {}, None, True, sampler=info.name)
        assert (parts - whole).abs().max() <= 64 * torch.finfo(torch.float32).eps * whole.abs().max(), info.name


class DirectFlow:
    def velocity(self, x, sigma, condition=None):
        return field(x, sigma.reshape(-1, 1))


def test_nothing_is_logged_by_a_run(caplog):
    with caplog.at_level(logging.DEBUG):
        run(sigmas(), normal((1, 3)))
    assert not caplog.records


def test_the_noise_of_an_image_is_an_immutable_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        host.ImageNoise((1,)).scale = 2.0

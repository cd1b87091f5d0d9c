"""Beside a real ComfyUI, which FLOWSAMPLERS_COMFYUI names: its own samplers, models, masks and schedules, on the CPU."""

import inspect
import math
from contextlib import contextmanager

import pytest
import torch

import comfyui
import flowsamplers as fs
from comfyui import distance, record, sampled, sigmas_of
from flowsamplers._elsewhere import names
from flowsamplers.registry.specifications import parse_specification
from flowsamplers_comfyui import host, schedule

if not comfyui.CHECKOUT:
    pytest.skip("FLOWSAMPLERS_COMFYUI names no checkout of ComfyUI", allow_module_level=True)
pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.filterwarnings("ignore"),
]

ROUNDING = 1e-5
"""Some tens of float32's eps, after a dozen calls of a model with random weights."""
ANOTHER_MAP = {
    "dpm_fast", "dpm_adaptive", "ddpm", "ipndm_v", "res_multistep_ancestral", "sa_solver", "sa_solver_pece", "uni_pc", "uni_pc_bh2",
}  # fmt: skip
"""What differs, and the names page says why."""
COMFYUI = names()["ComfyUI"]
ONE_MAP = [name for name, here in COMFYUI.items() if here.spec and name not in ANOTHER_MAP]
BY_SUMS = {"deis": 1e-4, "er_sde": 1e-2}
"""Integrals that ComfyUI takes from sums of 10,000 and of 200 points, and how far that may put them."""
WITHOUT_ETA_0 = {"lcm", "er_sde"}
"""Their noise is not turned off by ComfyUI's options as it is here."""


@pytest.fixture(scope="module")
def comfy():
    return comfyui.start()


@pytest.fixture(scope="module", params=comfyui.kinds())
def model(request, comfy):
    made = comfyui.tiny(request.param)
    made[0].kind = request.param
    return made


def ours(comfy, sampler, **options):
    return comfy.samplers.KSAMPLER(host.flow_sampler, {"sampler": sampler, **options})


def page(name, **options):
    """The configuration that the names page gives."""
    found, given = parse_specification(COMFYUI[name].spec)
    return {"name": found, "options": given | options}


def function_of(comfy, name):
    if name not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip("not in this ComfyUI")
    return getattr(comfy.k_diffusion.sampling, f"sample_{name}", None)


def moves_the_start(function):
    """Whether it puts a first sigma of 1, where the log-SNR is infinite, a little lower."""
    return function is not None and any(
        "offset_first_sigma_for_snr" in c.co_names for c in codes(inspect.unwrap(function).__code__)
    )


def codes(code):
    """Its code and that of the samplers it calls."""
    import comfy.k_diffusion.sampling as there

    yield code
    for name in code.co_names:
        if name.startswith("sample_") and name != code.co_name:
            yield from codes(inspect.unwrap(getattr(there, name)).__code__)


def in_turn():
    """Noise in the order of the calls."""
    draws = comfyui.Draws()
    return lambda s, t, like: torch.zeros_like(like) if abs(s - t) < 1e-6 else draws(like)  # a draw for no time gets no weight


def one_path(eta=1.0):
    """Noise of one path for dpmpp_sde, whose two draws of a step overlap: the second holds what is left of the first."""
    draws, first = comfyui.Draws(), {}

    def snr(s):
        return math.log((1 - s) / s)

    def noise(s, t, like):
        new, h = draws(like), snr(t) - snr(s)
        if first.get("s") != s:
            first.update(s=s, t=t, xi=new)
            return new
        part = snr(first["t"]) - snr(s)
        kept = math.exp(-eta * (h - part)) * math.sqrt(math.expm1(-2 * eta * part) / math.expm1(-2 * eta * h))
        return kept * first["xi"] + math.sqrt(1 - kept**2) * new

    return noise


def compared(comfy, model, name, sigmas, monkeypatch, *, noisy, moved=False):
    """The distance of ours from ComfyUI's, with the same noise, and with float64 sigmas: in float32, 1 - sigma rounds near sigma 1."""
    function = function_of(comfy, name)
    known = {} if function is None or name in ("dpm_fast", "dpm_adaptive") else inspect.signature(function).parameters
    info = fs.sampler_info(page(name)["name"])
    like = torch.zeros(2, model[0].model.latent_format.latent_channels, 8, 8)
    there, still = {}, {}
    if "noise_sampler" in known:
        draws = one_path() if name.startswith("dpmpp_sde") else in_turn()
        there["noise_sampler"] = lambda s, t: draws(float(s), float(t), like)
    if not noisy:
        there |= {"eta": 0.0} if "eta" in known else {"tau_func": lambda s: 0.0} if "tau_func" in known else {}
        still = {info.factory.noise_option: 0.0} if info.stochastic and info.factory.noise_option in info.options else {}
    shared = comfyui.Draws()
    monkeypatch.setattr(host, "noise_of", lambda *of: shared)

    def f(model, x, sigmas, *more, **options):
        sigmas = sigmas.clone()
        if moved and sigmas[0] >= 1:
            sigmas[0] = host.model_sampling(model).percent_to_sigma(1e-4)
        return host.flow_sampler(model, x, sigmas, *more, **options)

    exact = sigmas if name in ANOTHER_MAP else sigmas.double()
    theirs = sampled(model, comfy.samplers.ksampler(name, there) if there else comfy.samplers.sampler_object(name), exact)
    return distance(sampled(model, comfy.samplers.KSAMPLER(f, {"sampler": page(name, **still)}), exact), theirs)


def ways(comfy, name):
    """With noise, and without where both can be told to."""
    function = function_of(comfy, name)
    quiet = function is not None and "eta" in inspect.signature(function).parameters and name not in WITHOUT_ETA_0
    return (True, False) if quiet else (True,)


@contextmanager
def finer(comfy, name, by=100):
    """ComfyUI's sums with more points, in float64."""
    if name == "deis":
        from comfy.k_diffusion import deis

        kept = deis.get_deis_coeff_list

        def exactly(sigmas, order, **how):
            torch.set_default_dtype(torch.float64)  # of its points and constants
            try:
                return kept(sigmas, order, N=10_000 * by, **how)
            finally:
                torch.set_default_dtype(torch.float32)

        deis.get_deis_coeff_list = exactly
        yield
        deis.get_deis_coeff_list = kept
    elif name == "er_sde":
        function = inspect.unwrap(comfy.k_diffusion.sampling.sample_er_sde)
        kept = function.__code__
        function.__code__ = kept.replace(co_consts=tuple(2000.0 * by if c == 200.0 else c for c in kept.co_consts))
        yield
        function.__code__ = kept
    else:
        yield


def test_every_sampler_of_this_comfyui_is_on_the_names_page(comfy):
    assert set(comfy.samplers.SAMPLER_NAMES) <= set(COMFYUI)


def test_euler_is_comfyuis_bit_for_bit(comfy, model):
    sigmas = sigmas_of(model)
    stock = sampled(model, comfy.samplers.sampler_object("euler"), sigmas)
    assert torch.isfinite(stock).all()
    assert stock.std() > 0
    assert torch.equal(sampled(model, ours(comfy, "euler"), sigmas), stock)


@pytest.mark.parametrize("name", ONE_MAP)
def test_a_name_of_both_is_one_map_below_sigma_1_with_the_same_noise(comfy, model, name, monkeypatch):
    sigmas = sigmas_of(model)[1:]
    found = max(compared(comfy, model, name, sigmas, monkeypatch, noisy=w) for w in ways(comfy, name))
    record("below 1", f"{name} {model[0].kind}", float(f"{found:.2g}"))
    assert found <= BY_SUMS.get(name, ROUNDING), found
    with finer(comfy, name):
        found = max(compared(comfy, model, name, sigmas, monkeypatch, noisy=w) for w in ways(comfy, name))
    assert found <= ROUNDING, found


@pytest.mark.parametrize("name", ONE_MAP)
def test_from_sigma_1_it_is_the_same_map_but_for_the_first_sigma_which_comfyui_may_move(comfy, model, name, monkeypatch):
    sigmas = sigmas_of(model)
    found = max(compared(comfy, model, name, sigmas, monkeypatch, noisy=w) for w in ways(comfy, name))
    record("from 1", f"{name} {model[0].kind}", float(f"{found:.2g}"))
    if name == "dpmpp_2s_ancestral":
        pytest.skip("its first step from sigma 1 asks at 0.9999 in ComfyUI; measured only")
    moved = moves_the_start(function_of(comfy, name))
    if not moved:
        assert found <= BY_SUMS.get(name, ROUNDING), found
    with finer(comfy, name):
        found = max(compared(comfy, model, name, sigmas, monkeypatch, noisy=w, moved=moved) for w in ways(comfy, name))
    assert found <= 5 * ROUNDING, found  # the step from 0.9999 multiplies the rounding of 1 - sigma


@pytest.mark.parametrize("name", sorted(ANOTHER_MAP))
def test_what_the_page_calls_another_map_is_measured(comfy, model, name, monkeypatch):
    sigmas = sigmas_of(model)
    try:
        for what, part in (("below 1", sigmas[1:]), ("from 1", sigmas)):
            found = compared(comfy, model, name, part, monkeypatch, noisy=name.startswith("res_multistep") or name == "ddpm")
            record(what, f"{name} {model[0].kind}", float(f"{found:.2g}"))
            assert found > ROUNDING
    except TypeError as error:
        record("below 1", f"{name} {model[0].kind}", str(error))
        pytest.skip(f"this ComfyUI's own {name} raises TypeError: {error}")


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_uni_pc_ends_at_0_001_and_writes_that_into_the_sigmas_it_was_given(comfy, model, name):
    sigmas = sigmas_of(model)
    given = []

    def watched(model, x, sigmas, *more, **options):
        given.append(sigmas)
        return comfy.samplers.sampler_object(name).sampler_function(model, x, sigmas, *more, **options)

    stock = sampled(model, comfy.samplers.KSAMPLER(watched), sigmas)
    assert given[0][-1] == torch.tensor(0.001)
    assert distance(sampled(model, ours(comfy, name), sigmas), stock) < 2e-2  # a thousandth of the noise


@pytest.mark.parametrize(("order", "even"), [(3, True), (3, False), (4, True)])
def test_ipndm_v_is_comfyuis_to_order_3_on_equal_steps_only(comfy, model, order, even):
    """Its weights of orders 3 and 4 lack a pair of parentheses, which unequal steps show, and a term of order 4 has the wrong sign."""
    sigmas = torch.linspace(1, 0, 9) if even else sigmas_of(model, 8)
    stock = sampled(model, comfy.samplers.ksampler("ipndm_v", {"max_order": order}), sigmas)
    assert (distance(sampled(model, ours(comfy, f"ipndm_v{order}"), sigmas), stock) <= ROUNDING) == (even and order == 3)


@pytest.mark.parametrize("name", [n for n in ONE_MAP if n not in BY_SUMS and not n.startswith("dpmpp_sde")])
def test_a_schedule_that_ends_above_0_has_no_last_step_of_its_own(comfy, model, name, monkeypatch):
    """As in the first part of SplitSigmas: the node's choice, auto, is what ComfyUI does."""

    part = sigmas_of(model)[1:-1]
    found = max(compared(comfy, model, name, part, monkeypatch, noisy=w) for w in ways(comfy, name))
    assert found <= ROUNDING, found


def test_inpainting_and_half_denoising_are_comfyuis(comfy, model):
    channels = model[0].model.latent_format.latent_channels
    latent = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 4:] = 1.0
    tail = sigmas_of(model, 4, 0.5)
    for masked in (None, mask):
        stock = sampled(model, comfy.samplers.sampler_object("euler"), tail, latent, masked)
        assert torch.equal(sampled(model, ours(comfy, "euler"), tail, latent, masked), stock)
    for info in fs.list_samplers():
        result = sampled(model, ours(comfy, info.name), tail, latent, mask)
        assert torch.isfinite(result).all(), info.name
        assert distance(result[..., :4], latent[..., :4]) < 1e-4 or info.adaptive or info.stochastic, info.name


@pytest.mark.parametrize("info", fs.list_samplers(), ids=lambda i: i.name)
def test_every_sampler_runs_and_equals_direct_sampling(comfy, model, info):
    sigmas = sigmas_of(model, 4)
    kept = []

    def direct(model, x, sigmas, extra_args=None, callback=None, disable=None):
        (method, grid), *rest = host.with_end(info.name, host.grid_of(sigmas)[0])
        velocity = host.Velocity(model, extra_args)
        noise = fs.KeyedNoise(list(host.seeds_of(model, x, 3)))
        kept.append(fs.sample(velocity, x, grid, method, seed=noise))
        for method, grid in rest:
            kept.append(fs.sample(velocity, kept[-1], grid, method, seed=noise))
        return kept[-1]

    here = sampled(model, ours(comfy, info.name), sigmas)
    assert torch.equal(here, sampled(model, comfy.samplers.KSAMPLER(direct), sigmas))
    assert torch.isfinite(here).all()


def test_a_stochastic_image_is_the_same_in_any_batch(comfy, model):
    sigmas = sigmas_of(model)
    whole = sampled(model, ours(comfy, "euler_ancestral"), sigmas, images=3)
    alone = sampled(model, ours(comfy, "euler_ancestral"), sigmas, images=1)
    assert distance(alone, whole[:1]) < 1e-5


def test_models_that_are_no_flows_are_refused(comfy, model):
    import comfy.model_sampling

    patcher = model[0].clone()
    kind = type("Sampling", (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS), {})
    patcher.add_object_patch("model_sampling", kind())
    with pytest.raises(ValueError, match="kind"):
        sampled((patcher, model[1]), ours(comfy, "euler"), torch.tensor([1.0, 0.5, 0.0]))


@pytest.mark.parametrize("name", ["simple", "sgm_uniform", "normal", "ddim_uniform", "linear_quadratic", "kl_optimal"])
def test_the_schedules_of_the_models_shift_are_comfyuis(comfy, model, name):
    sampling = model[0].get_model_object("model_sampling")
    stock = comfy.samplers.calculate_sigmas(sampling, name, 8)
    made = schedule.stock_handler(name, sampling, 8)
    assert made.shape == stock.shape
    found = float((made - stock).abs().max())
    record("schedules", f"{name} {model[0].kind}", float(f"{found:.2g}"))
    assert found < 2e-6


def node(name, *files):
    """A class of ComfyUI's own extra nodes; where they lie depends on the version."""
    for file in files:
        try:
            return getattr(__import__(file, fromlist=[name]), name)
        except (ImportError, AttributeError):
            continue
    pytest.skip(f"no {name} in this ComfyUI")


def outputs(given):
    """Of a node of either kind."""
    return given[0] if isinstance(given, tuple) else given.result[0]


@pytest.mark.parametrize(("width", "height"), [(512, 512), (1024, 1024), (1360, 768), (2048, 2048)])
def test_flux2_is_flux2scheduler(comfy, width, height):
    theirs = node("Flux2Scheduler", "comfy_extras.nodes.nodes_flux", "comfy_extras.nodes_flux")
    for steps in (1, 4, 8, 20, 50):
        stock = outputs(theirs.execute(steps, width, height))
        made = schedule.sigmas_of("flux2", steps, tokens=fs.schedules.tokens_for(width, height))
        found = float((made - stock).abs().max())
        record("schedules", f"Flux2Scheduler {width}x{height} {steps}", float(f"{found:.2g}"))
        assert found < 1e-6


@pytest.mark.parametrize("tokens", [1024, 4096, 7000])
def test_ltxvscheduler_is_the_row_of_the_names_page(comfy, tokens):
    theirs = node("LTXVScheduler", "comfy_extras.nodes.nodes_lt", "comfy_extras.nodes_lt")
    latent = {"samples": torch.zeros(1, 128, 1, 1, tokens)}
    ask = getattr(theirs, "execute", None) or theirs().get_sigmas
    for steps in (4, 8, 30):
        stock = outputs(ask(steps, 2.05, 0.95, True, 0.1, latent))
        mu = 0.95 + (2.05 - 0.95) * (tokens - 1024) / (4096 - 1024)
        options = {"use_dynamic_shifting": True, "mu": mu, "shift_terminal": 0.1}
        made = schedule.sigmas_of(
            "flow_match_euler", steps, options={"sigmas": torch.linspace(1, 0, steps + 1)[:-1].tolist(), **options}
        )
        found = float((made - stock).abs().max())
        record("schedules", f"LTXVScheduler {tokens} {steps}", float(f"{found:.2g}"))
        assert found < 2e-6

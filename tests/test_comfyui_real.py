"""Beside a real ComfyUI, which FLOWSAMPLERS_COMFYUI names: its own samplers, models, masks and executor, on the CPU."""

import pytest
import torch

import comfyui
import flowsamplers as fs
from flowsamplers_comfyui import host, schedule

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not comfyui.CHECKOUT, reason="FLOWSAMPLERS_COMFYUI names no checkout of ComfyUI"),
    pytest.mark.filterwarnings("ignore"),
]

SAME = {  # ComfyUI's name: ours, for methods that are one map on a rectified flow
    "euler": "euler",
    "ddim": "ddim",
    "heun": "heun",
    "heunpp2": "heunpp2",
    "dpm_2": "dpm_2",
    "lms": "lms",
    "dpmpp_2m": {"name": "dpmpp_2m", "options": {"variable": "neg_log_sigma"}},
    "ipndm": "ipndm",
    "res_multistep": "res_multistep",
    "gradient_estimation": "gradient_estimation",
}
"""Deterministic ones; the stochastic ones draw other noise and are compared without any in the test of ``eta``."""
QUIET = {
    "euler_ancestral": ("euler_ancestral", {"eta": 0.0}),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {"eta": 0.0}),
    "dpmpp_2m_sde_heun": ("dpmpp_2m_sde_heun", {"eta": 0.0}),
    "dpmpp_sde": ("dpmpp_sde", {"eta": 0.0}),
    "seeds_2": ("seeds_2", {"eta": 0.0}),
    "seeds_3": ("seeds_3", {"eta": 0.0}),
}


@pytest.fixture(scope="module")
def comfy():
    return comfyui.start()


def tiny(comfy, kind):
    """A model of ComfyUI with random weights, as MODEL, and its conditioning."""
    import comfy.model_patcher
    import comfy.supported_models as models

    torch.manual_seed(0)
    if kind == "flux":
        config = models.Flux(
            {
                "image_model": "flux", "in_channels": 16, "patch_size": 2, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 12,
                "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 10, 10],
                "theta": 10000, "qkv_bias": True, "guidance_embed": False,
            }
        )  # fmt: skip
        cond = [[torch.randn(1, 5, 12), {"pooled_output": torch.randn(1, 8)}]]
    else:
        config = models.SD3(
            {
                "in_channels": 16, "patch_size": 2, "depth": 1, "input_size": None, "adm_in_channels": 8, "num_patches": 64,
                "pos_embed_max_size": 8, "context_embedder_config": {
                    "target": "torch.nn.Linear", "params": {"in_features": 12, "out_features": 64},
                },
            }
        )  # fmt: skip
        cond = [[torch.randn(1, 5, 12), {"pooled_output": torch.randn(1, 8)}]]
    config.unet_config["dtype"] = torch.float32
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    for tensor in (*model.parameters(), *model.diffusion_model.buffers()):  # some are made without values
        torch.nn.init.normal_(tensor, std=0.2)
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu")), cond


MODELS = ["flux", "sd3"]


@pytest.fixture(scope="module", params=MODELS)
def model(request, comfy):
    return tiny(comfy, request.param)


def sampled(comfy, model, sampler, sigmas, latent=None, mask=None, seed=3, images=2):
    patcher, cond = model
    latent = torch.zeros(images, 16, 8, 8) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample_custom(
        patcher, noise, 1.0, sampler, sigmas, cond, cond, latent, noise_mask=mask, disable_pbar=True, seed=seed
    )


def ours(comfy, name, **options):
    return comfy.samplers.KSAMPLER(host.flow_sampler, {"sampler": name, **options})


def sigmas_of(comfy, model, steps=6, denoise=1.0):
    total = int(steps / denoise)
    return comfy.samplers.calculate_sigmas(model[0].get_model_object("model_sampling"), "simple", total)[-(steps + 1) :]


def test_euler_is_comfyuis_bit_for_bit(comfy, model):
    sigmas = sigmas_of(comfy, model)
    stock = sampled(comfy, model, comfy.samplers.sampler_object("euler"), sigmas)
    assert torch.isfinite(stock).all()
    assert stock.std() > 0
    assert torch.equal(sampled(comfy, model, ours(comfy, "euler"), sigmas), stock)


@pytest.mark.parametrize("name", SAME)
def test_the_methods_both_have_agree_to_rounding(comfy, model, name):
    if name not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip("not in this ComfyUI")
    sigmas = sigmas_of(comfy, model)
    stock = sampled(comfy, model, comfy.samplers.sampler_object(name), sigmas)
    here = sampled(comfy, model, ours(comfy, SAME[name]), sigmas)
    assert distance(here, stock) <= 1e-5, distance(here, stock)


@pytest.mark.parametrize("name", QUIET)
def test_the_stochastic_methods_both_have_agree_without_noise(comfy, model, name):
    there, options = QUIET[name]
    sigmas = sigmas_of(comfy, model)[1:]  # ComfyUI moves a first sigma of 1, where the log-SNR is infinite
    stock = sampled(comfy, model, comfy.samplers.ksampler(name, dict(options)), sigmas)
    here = sampled(comfy, model, ours(comfy, {"name": there, "options": options}), sigmas)
    assert distance(here, stock) <= 1e-5, distance(here, stock)


@pytest.mark.parametrize("even", [True, False])
def test_ipndm_v_is_comfyuis_on_equal_steps_only(comfy, model, even):
    """Its coefficients of orders 3 and 4 lack a pair of parentheses, which matters where neighboring steps differ."""
    sigmas = torch.linspace(1, 0, 9) if even else sigmas_of(comfy, model, 8)
    stock = sampled(comfy, model, comfy.samplers.sampler_object("ipndm_v"), sigmas)
    assert (distance(sampled(comfy, model, ours(comfy, "ipndm_v"), sigmas), stock) <= 1e-5) == even


def distance(x, y):
    return float((x - y).norm() / y.norm())


def test_inpainting_and_half_denoising_are_comfyuis(comfy, model):
    latent = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 4:] = 1.0
    tail = sigmas_of(comfy, model, 4, 0.5)
    for masked in (None, mask):
        stock = sampled(comfy, model, comfy.samplers.sampler_object("euler"), tail, latent, masked)
        assert torch.equal(sampled(comfy, model, ours(comfy, "euler"), tail, latent, masked), stock)
    for info in fs.list_samplers():
        result = sampled(comfy, model, ours(comfy, info.name), tail, latent, mask)
        assert torch.isfinite(result).all(), info.name
        assert distance(result[..., :4], latent[..., :4]) < 1e-4 or info.adaptive or info.stochastic, info.name


@pytest.mark.parametrize("info", fs.list_samplers(), ids=lambda i: i.name)
def test_every_sampler_runs_and_equals_direct_sampling(comfy, model, info):
    sigmas = sigmas_of(comfy, model, 4)
    kept = []

    def direct(model, x, sigmas, extra_args=None, callback=None, disable=None):
        (method, grid), *rest = host.with_end(info.name, host.grid_of(sigmas)[0])
        velocity = host.Velocity(model, extra_args)
        noise = fs.KeyedNoise(list(host.seeds_of(model, x, 3)))
        kept.append(fs.sample(velocity, x, grid, method, seed=noise))
        for method, grid in rest:
            kept.append(fs.sample(velocity, kept[-1], grid, method, seed=noise))
        return kept[-1]

    here = sampled(comfy, model, ours(comfy, info.name), sigmas)
    assert torch.equal(here, sampled(comfy, model, comfy.samplers.KSAMPLER(direct), sigmas))
    assert torch.isfinite(here).all()


def test_a_stochastic_image_is_the_same_in_any_batch(comfy, model):
    sigmas = sigmas_of(comfy, model)
    whole = sampled(comfy, model, ours(comfy, "euler_ancestral"), sigmas, images=3)
    alone = sampled(comfy, model, ours(comfy, "euler_ancestral"), sigmas, images=1)
    assert distance(alone, whole[:1]) < 1e-5


def test_models_that_are_no_flows_are_refused(comfy, model):
    import comfy.model_sampling

    patcher = model[0].clone()
    kind = type("Sampling", (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS), {})
    patcher.add_object_patch("model_sampling", kind())
    with pytest.raises(ValueError, match="kind"):
        sampled(comfy, (patcher, model[1]), ours(comfy, "euler"), torch.tensor([1.0, 0.5, 0.0]))


@pytest.mark.parametrize("name", ["simple", "sgm_uniform", "normal", "ddim_uniform", "linear_quadratic", "kl_optimal"])
def test_the_schedules_of_the_models_shift_are_comfyuis(comfy, model, name):
    sampling = model[0].get_model_object("model_sampling")
    stock = comfy.samplers.calculate_sigmas(sampling, name, 8)
    made = schedule.stock_handler(name, sampling, 8)
    assert made.shape == stock.shape
    assert (made - stock).abs().max() < 2e-6

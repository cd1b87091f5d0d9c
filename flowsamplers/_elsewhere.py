"""Names of samplers and schedules in other programs, and what has them here.

`get_sampler` and `get_schedule` answer with this when they are given a name that is not theirs, and ``tools/build_names.py`` makes a
page of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Here(NamedTuple):
    """Names of other programs, and the samplers and schedules here that correspond to them.

    Attributes:
        spec: ``name`` or ``name:option=value,...``, as the command line takes it; empty for what is not here.
        note: what is different, and why.
    """

    spec: str
    note: str = ""


def _same(*names: str) -> dict[str, Here]:
    return {name: Here(name) for name in names}


def _all(names: str, spec: str, note: str) -> dict[str, Here]:
    return dict.fromkeys(names.split(), Here(spec, note))


_CFG_PP = "CFG++ needs the prediction without guidance, and a velocity field has one prediction"
_VE = "adds variance-exploding noise, which gives 1.9 times the true variance on a rectified flow"
_OWN_END = "the plain name ends with a midpoint step"
_OWN_END_3 = "the plain name ends with Ralston's step of order 3"
_SA = (
    "by default the start-up keeps the order; ComfyUI makes the last step but one by Euler's rule, limits its noise to a part of the "
    "schedule, and fails on a schedule that ends above 0"
)
_UNI_PC = "ends at sigma 0; ComfyUI's ends at 0.001, keeps that noise, and writes 0.001 into the sigmas that it was given"

COMFYUI: Mapping[str, Here] = {
    "euler": Here("euler", "with s_churn: churn:base=euler, in the form for rectified flows; heun and dpm_2 likewise"),
    **_all("euler_cfg_pp euler_ancestral_cfg_pp dpmpp_2m_cfg_pp dpmpp_2s_ancestral_cfg_pp", "", _CFG_PP),
    **_all("res_multistep_cfg_pp res_multistep_ancestral_cfg_pp gradient_estimation_cfg_pp cfgpp_ud10_ab", "", _CFG_PP),
    "euler_ancestral": Here("euler_ancestral"),
    "heun": Here("heun:last=euler", "the plain name ends with Heun's own step"),
    **_same("heunpp2", "dpm_2", "dpm_2_ancestral", "lms"),
    "exp_heun_2_x0": Here("exp_heun_2_x0:last=euler", _OWN_END),
    "exp_heun_2_x0_sde": Here("exp_heun_2_x0_sde:last=euler", f"at eta 0 {_OWN_END}"),
    "dpm_fast": Here("dpmpp_3s", "ComfyUI's mixes orders 1 to 3 in one run, and with eta " + _VE),
    "dpm_adaptive": Here(
        "dpm_adaptive",
        "without eta, with which ComfyUI's " + _VE + "; ComfyUI's stops at the last sigma above 0 and keeps that noise",
    ),
    "dpmpp_2s_ancestral": Here(
        "dpmpp_2s_ancestral", "from sigma 1 ComfyUI makes its second call at 0.9999, here it is a midpoint step"
    ),
    **_all(
        "dpmpp_sde dpmpp_sde_gpu",
        "dpmpp_sde:last=euler",
        f"the two noises of a step have another correlation in ComfyUI; at eta 0 {_OWN_END}",
    ),
    "dpmpp_2m": Here("dpmpp_2m:variable=neg_log_sigma", "by default interpolated in lambda, as in diffusers"),
    **_same("dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
    **_all("dpmpp_3m_sde dpmpp_3m_sde_gpu", "dpmpp_3m_sde:correction=heun", "the second step of the plain name is diffusers'"),
    "ddpm": Here("ddim_eta", "ComfyUI's " + _VE + "; this one takes the noise-to-signal ratio, and is euler_sde at eta 1"),
    **_same("lcm", "ipndm", "res_multistep"),
    "deis": Here("deis", "with exact integrals where ComfyUI sums 10,000 points"),
    "ipndm_v": Here(
        "ipndm_v",
        "ComfyUI's weights of orders 3 and 4 are wrong on unequal steps, and a term of order 4 has the wrong sign",
    ),
    "res_multistep_ancestral": Here("res_2m_sde", "ComfyUI's " + _VE + "; this one is the same method on the flow's SDE"),
    **_same("gradient_estimation"),
    "er_sde": Here("er_sde", "with exact integrals where ComfyUI sums 200 points"),
    "seeds_2": Here("seeds_2:last=euler", f"at eta 0 {_OWN_END}"),
    "seeds_3": Here("seeds_3:last=euler", f"at eta 0 {_OWN_END_3}"),
    "sa_solver": Here("sa_solver:startup=ramp", _SA),
    "sa_solver_pece": Here("sa_solver_pece:startup=ramp", _SA),
    "ddim": Here("ddim"),
    "uni_pc": Here("uni_pc", _UNI_PC),
    "uni_pc_bh2": Here("uni_pc_bh2", _UNI_PC),
}
"""ComfyUI's samplers."""

_EXPONENTIAL = "not here; this exponential method has the highest order of those that are"
_IMPLICIT = "not here; this implicit method is solved by fixed point too, for references"
_HYBRID = "a hybrid of steps and stages, not here; the nearest is a predictor with a corrector"

RES4LYF: Mapping[str, Here] = {
    **_same("res_2m", "res_3m", "dpmpp_2m", "abnorsett_2m", "abnorsett_3m"),
    "dpmpp_3m": Here("dpmpp_3m"),
    "abnorsett_4m": Here("unipc_3", "an exponential Adams method of four predictions: as a predictor and corrector"),
    "deis_2m": Here("deis_rhoab2", "DEIS's integrals in sigma are those of Adams-Bashforth"),
    "deis_3m": Here("deis_rhoab3", "DEIS's integrals in sigma are those of Adams-Bashforth"),
    "deis_4m": Here("ipndm_v4", "DEIS's integrals in sigma are those of Adams-Bashforth"),
    **_all("res_2s res_2s_stable res_2s_rkmk2e", "res_2s", ""),
    **_all("res_3s res_3s_alt res_3s_cox_matthews res_3s_lie res_3s_sunstar res_3s_strehmel_weiner", "res_3s", ""),
    "res_3s_non-monotonic": Here("res_3s"),
    **_all("res_4s_krogstad res_4s_krogstad_alt", "krogstad", ""),
    **_all("res_4s_cox_matthews etdrk4_4s etdrk4_4s_alt", "etdrk4", ""),
    **_all("res_4s_strehmel_weiner res_4s_strehmel_weiner_alt res_4s_cfree4 res_4s_friedli", "krogstad", _EXPONENTIAL),
    **_all("res_4s_minchev res_4s_munthe-kaas lawson4_4s lawson41-gen_4s lawson41-gen-mod_4s", "krogstad", _EXPONENTIAL),
    **_all("res_5s res_5s_hochbruck-ostermann res_6s res_8s res_8s_alt res_10s res_15s res_16s", "krogstad", _EXPONENTIAL),
    **_all("etdrk2_2s lawson2a_2s lawson2b_2s", "res_2s:c2=1.0", _EXPONENTIAL),
    **_all("etdrk3_a_3s etdrk3_b_3s", "res_3s", _EXPONENTIAL),
    "dpmpp_2s": Here("dpmpp_2s:variable=neg_log_sigma"),
    "dpmpp_sde_2s": Here("dpmpp_2s:variable=neg_log_sigma,c2=1.0"),
    "dpmpp_3s": Here("dpmpp_3s:variable=neg_log_sigma"),
    "ddim": Here("ddim"),
    **_all("pec423_2h2s pec433_2h3s abnorsett2_1h2s abnorsett3_2h2s abnorsett4_3h2s", "unipc_3", _HYBRID),
    **_all("lawson42-gen-mod_1h4s lawson43-gen-mod_2h4s lawson44-gen-mod_3h4s lawson45-gen-mod_4h4s", "unipc_3", _HYBRID),
    "ralston_2s": Here("ralston"),
    "ralston_3s": Here("ralston3"),
    "ralston_4s": Here("rk4", "another method of order 4 in four calls"),
    "midpoint_2s": Here("midpoint"),
    "heun_2s": Here("heun"),
    **_all("heun_3s houwen-wray_3s", "ralston3", "another method of order 3 in three calls"),
    "kutta_3s": Here("kutta3"),
    "ssprk3_3s": Here("ssprk3"),
    "ssprk4_4s": Here("rk4", "another method of order 4 in four calls"),
    "rk38_4s": Here("rk38"),
    "rk4_4s": Here("rk4"),
    **_all("rk5_7s rk6_7s bogacki-shampine_7s", "rk5", "another method of high order, in six calls"),
    "bogacki-shampine_4s": Here(
        "ralston3", "the same step: the fourth call is for an error estimate that nothing reads at fixed steps"
    ),
    "dormand-prince_6s": Here("dopri5", "with its error estimate and steps of its own; at fixed steps rk5 has the order"),
    "dormand-prince_13s": Here("rk5", "for order 8 lay Richardson's extrapolation over it"),
    "tsi_7s": Here("tsit5", "with its error estimate and steps of its own; at fixed steps rk5 has the order"),
    "euler": Here("euler"),
    **_all("gauss-legendre_2s", "gauss_legendre2", ""),
    **_all("radau_iia_2s", "radau_iia2", ""),
    **_all("gauss-legendre_3s gauss-legendre_4s gauss-legendre_4s_alternating_a", "gauss_legendre2", _IMPLICIT),
    **_all("gauss-legendre_4s_ascending_a gauss-legendre_4s_alt gauss-legendre_5s", "gauss_legendre2", _IMPLICIT),
    **_all("gauss-legendre_5s_ascending lobatto_iiia_2s lobatto_iiia_3s lobatto_iiia_4s", "gauss_legendre2", _IMPLICIT),
    **_all("lobatto_iiib_2s lobatto_iiib_3s lobatto_iiib_4s lobatto_iiic_2s lobatto_iiic_3s", "gauss_legendre2", _IMPLICIT),
    **_all("lobatto_iiic_4s lobatto_iiic_star_2s lobatto_iiic_star_3s lobatto_iiid_2s", "gauss_legendre2", _IMPLICIT),
    **_all("lobatto_iiid_3s crouzeix_2s crouzeix_3s crouzeix_3s_alt qin_zhang_2s", "gauss_legendre2", _IMPLICIT),
    **_all("kraaijevanger_spijker_2s pareschi_russo_2s pareschi_russo_alt_2s", "gauss_legendre2", _IMPLICIT),
    "irk_exp_diag_2s": Here("gauss_legendre2", _IMPLICIT),
    **_all("radau_ia_2s radau_ia_3s radau_iia_3s radau_iia_3s_alt radau_iia_5s", "radau_iia2", _IMPLICIT),
    **_all("radau_iia_7s radau_iia_9s radau_iia_11s", "radau_iia2", _IMPLICIT),
}
"""RES4LYF's samplers. All of them go to the model's smallest sigma before 0; here the last step is `last`."""

DIFFUSERS: Mapping[str, Here] = {
    "FlowMatchEulerDiscreteScheduler": Here("euler", "with stochastic_sampling=True: lcm"),
    "FlowMatchHeunDiscreteScheduler": Here("flow_match_heun"),
    "FlowMatchLCMScheduler": Here("lcm"),
    "LTXEulerAncestralRFScheduler": Here("euler_ancestral"),
    "UniPCMultistepScheduler": Here("unipc", "solver_order=3: unipc_3; solver_type is base"),
    "DPMSolverMultistepScheduler": Here(
        "dpmpp_2m", 'solver_type="heun": res_2m:variable=lambda; solver_order=3: dpmpp_3m; "sde-": dpmpp_2m_sde'
    ),
    "DPMSolverSinglestepScheduler": Here("dpmpp_2s:nodes=grid", "solver_order=3: dpmpp_3s:nodes=grid"),
    "DPMSolverSDEScheduler": Here("dpmpp_sde"),
    "DEISMultistepScheduler": Here("deis_log_rho", "ends at sigma 0, diffusers' does not; solver_order=3: max_order=3"),
    "SASolverScheduler": Here("sa_solver_diffusers", "ends at sigma 0, diffusers' does not"),
    "EulerDiscreteScheduler": Here("euler"),
    "EulerAncestralDiscreteScheduler": Here("euler_ancestral", "in the form for rectified flows"),
    "HeunDiscreteScheduler": Here("heun:last=euler"),
    "KDPM2DiscreteScheduler": Here("dpm_2"),
    "KDPM2AncestralDiscreteScheduler": Here("dpm_2_ancestral", "in the form for rectified flows"),
    "LMSDiscreteScheduler": Here("lms"),
    "IPNDMScheduler": Here("ipndm"),
    "PNDMScheduler": Here("ipndm", "with pseudo steps of Runge-Kutta at the start: ab4"),
    "DDIMScheduler": Here("ddim", "with an eta: ddim_eta"),
    "DDPMScheduler": Here("ddim_eta"),
    "LCMScheduler": Here("lcm"),
    "TCDScheduler": Here("lcm:eta=0.3", "its gamma is a share of fresh noise as well, by another formula"),
    "EDMEulerScheduler": Here("euler", "with s_churn: churn:base=euler"),
    "EDMDPMSolverMultistepScheduler": Here("dpmpp_2m"),
}
"""The schedulers of diffusers: each contains a sampler."""

OTHERS: Mapping[str, Here] = {
    "rx_euler": Here(
        "midpoint",
        "on every second node: Richardson's extrapolation of two Euler steps is the midpoint rule where they are equal",
    ),
    "taylor": Here("ab3", "a Taylor step with differences of cached velocities is Adams-Bashforth"),
    "flow_solver": Here("ab3", "variable-step Adams-Bashforth"),
    "sde": Here("euler_sde"),
    "ancestral": Here("euler_ancestral"),
    **_all("ddss s4s", "", "a solver with a table of its own: ns_solver, see fit_ns_solver"),
    **_all("amed amed_plugin", "", "a learned midpoint: epd with a table of one midpoint for each step"),
    **_all("ns_solver bns neural_solver epd parallel_midpoint", "", "made by its option table, see fit_ns_solver"),
    "precise": Here("euler_sde", "its strength a is eta = a^2 / 2"),
    "plms": Here("ipndm"),
    "pndm": Here("ipndm"),
    "unipc_bh1": Here("unipc:base=bh1"),
    "unipc_bh2": Here("unipc:base=bh2"),
    "dpm_solver": Here("dpmpp_2m", "DPM-Solver++; of DPM-Solver in the noise prediction dpm_2 and dpm_adaptive are here"),
}
"""Names in papers and other programs."""

SCHEDULES: Mapping[str, Here] = {
    **_same("simple", "sgm_uniform", "ddim_uniform", "normal", "linear_quadratic", "kl_optimal", "bong_tangent", "beta57"),
    "karras": Here(
        "karras_comfy", "the plain name is diffusers', between the ends of the shifted grid; of EDM's sigma: karras_ve"
    ),
    "exponential": Here("exponential_comfy", "the plain name is diffusers'; of EDM's sigma: exponential_ve"),
    "beta": Here("beta_comfy", "the plain name is diffusers'"),
    "polyexponential": Here("polyexponential_ve", "in EDM's sigma"),
    "laplace": Here("laplace", "in lambda, whose sign is the other one there"),
    "vp": Here(
        "", "a schedule of the variance-preserving process: it has no counterpart on a rectified flow; cosine comes near"
    ),
    "Flux2Scheduler": Here("flux2", "tokens from the size, as there"),
    "LTXVScheduler": Here(
        "flow_match_euler",
        "with shift_terminal=0.1, use_dynamic_shifting and mu from 0.95 at 1024 tokens to 2.05 at 4096",
    ),
    "SDTurboScheduler": Here(
        "", "ten fixed times of SD-Turbo, a distilled variance-preserving model; on a flow shift with few steps"
    ),
    **_all(
        "ays align_your_steps AYS AlignYourSteps AlignYourStepsScheduler",
        "ays_sdxl",
        "also ays_sd1 and ays_svd; none was made for a flow",
    ),
    **_all("gits GITS GITSScheduler", "gits_sd1", "made for SD 1.5, not for a flow"),
    **_all("oss optimal_steps OptimalSteps OptimalStepsScheduler", "oss_flux", "also oss_wan and oss_chroma"),
}
"""ComfyUI's schedules, and those of its nodes."""


def sampler_elsewhere(name: str) -> str:
    """Return a hint for a sampler's name of another program; empty if the name is unknown.

    Examples:
        >>> sampler_elsewhere("ralston_2s")
        "a name of RES4LYF: here it is 'ralston'. "
    """
    for source, names in (("ComfyUI", COMFYUI), ("RES4LYF", RES4LYF), ("diffusers", DIFFUSERS), ("", OTHERS)):
        if name in names:
            return _said(source, names[name])
    return _both(name)


WEBUI_SCHEDULES = {
    "karras": "karras_comfy",
    "exponential": "exponential_comfy",
    "polyexponential": "polyexponential_comfy",
    "beta": "beta_comfy",
    "simple": "simple",
    "normal": "normal",
    "sgm uniform": "sgm_uniform",
}
"""Schedules that AUTOMATIC1111's WebUI appends to a sampler's name, as in "DPM++ 2M Karras"."""
WEBUI_SAMPLERS = {"dpm2": "dpm_2", "dpm2_a": "dpm_2_ancestral"}
"""Samplers that it spells in another way."""


def _both(name: str) -> str:
    """Answer a name that joins a sampler and a schedule.

    Examples:
        >>> _both("DPM++ 2M Karras")
        "a sampler and a schedule in one name: here they are 'dpmpp_2m' and 'karras_comfy'. "
    """
    found = re.fullmatch(rf"(.+?)[ _]({'|'.join(WEBUI_SCHEDULES)})", name, re.IGNORECASE)
    if found is None:
        return ""
    sampler = re.sub(r"[\s-]+", "_", found[1].lower().replace("++", "pp"))
    schedule = WEBUI_SCHEDULES[found[2].lower()]
    return f"a sampler and a schedule in one name: here they are {WEBUI_SAMPLERS.get(sampler, sampler)!r} and {schedule!r}. "


def schedule_elsewhere(name: str) -> str:
    """Return a hint for a schedule's name of another program; empty if the name is unknown."""
    return _said("ComfyUI", SCHEDULES[name]) if name in SCHEDULES else ""


def elsewhere(name: str) -> str:
    """Return a hint for a name that may be a sampler's or a schedule's."""
    return sampler_elsewhere(name) or schedule_elsewhere(name)


def _said(source: str, here: Here) -> str:
    whose = f"a name of {source}" if source else "a name known elsewhere"
    if not here.spec:
        return f"{whose}: {here.note}. "
    return f"{whose}: here it is {here.spec!r}{f', {here.note}' if here.note else ''}. "

"""Names of other programs: each is one here, or the error says what is."""

from __future__ import annotations

import pytest

import flowsamplers as fs
from flowsamplers._elsewhere import Here, names

ELSEWHERE = dict(names())
THEIR_SCHEDULES = ELSEWHERE.pop("schedules")
SAMPLERS = [(name, here) for known in ELSEWHERE.values() for name, here in known.items()]
OURS = {n for i in fs.list_samplers() for n in i.names}
SCHEDULES = {n for i in fs.list_schedules() for n in i.names}


@pytest.mark.parametrize(("name", "here"), SAMPLERS, ids=[name for name, _ in SAMPLERS])
def test_a_samplers_name_is_one_here_or_its_error_says_what_is(name: str, here: Here) -> None:
    if here.spec:
        assert fs.get_sampler(here.spec)
    else:
        assert here.note
    if name in OURS:
        assert here.spec.partition(":")[0] in fs.sampler_info(name).names
        return
    if "made by its option table" in here.note:
        assert fs.sampler_info(name).needs == "table"
        return
    with pytest.raises(ValueError, match="a name ") as error:
        fs.get_sampler(name)
    assert here.spec in str(error.value)
    assert here.note in str(error.value)


@pytest.mark.parametrize("name", THEIR_SCHEDULES)
def test_a_schedules_name_is_one_here_or_its_error_says_what_is(name: str) -> None:
    here = THEIR_SCHEDULES[name]
    assert here.note or name in SCHEDULES
    assert not here.spec or here.spec in SCHEDULES
    if name not in SCHEDULES:
        with pytest.raises(ValueError, match="a name of ComfyUI") as error:
            fs.get_schedule(name, 4)
        assert here.spec in str(error.value)


def test_all_of_comfyuis_samplers_and_schedules_are_known() -> None:
    """As of 2025-11; without guidance in them all but dpm_fast, ddpm and res_multistep_ancestral are names here too."""
    assert len(ELSEWHERE["ComfyUI"]) == 45
    not_here = {n for n in ELSEWHERE["ComfyUI"] if n not in OURS and not n.endswith("_cfg_pp") and not n.startswith("cfgpp")}
    assert not_here == {"dpm_fast", "ddpm", "res_multistep_ancestral"}
    theirs = "simple sgm_uniform karras exponential ddim_uniform beta normal linear_quadratic kl_optimal"
    assert set(theirs.split()) <= SCHEDULES & set(THEIR_SCHEDULES)


@pytest.mark.parametrize(
    ("typed", "meant"), [("DPM++ 2M", "dpmpp_2m"), ("Euler a", "euler_a"), ("dpm++-2m-sde", "dpmpp_2m_sde"), ("huen", "heun")]
)
def test_other_spellings_find_the_nearest_name(typed: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        fs.get_sampler(typed)

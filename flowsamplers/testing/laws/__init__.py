"""The laws of samplers and schedules, one function each. A law raises AssertionError if it is broken.

A law of samplers takes a `Subject` (or a sampler, its name, or its configuration) and the case to test. A law of schedules takes
a function that builds one. A law that does not apply to a subject raises `NotApplicable` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable

from flowsamplers.testing.laws.calls import (
    bad_velocities_are_named,
    evaluations_are_as_declared,
    requests_stay_inside_their_step,
)
from flowsamplers.testing.laws.common import DTYPES, IRREGULAR, SEED, Case, NotApplicable
from flowsamplers.testing.laws.drivers import (
    a_cut_graph_stays_cut,
    copies_between_calls_change_nothing,
    drivers_agree,
    edits_are_honoured,
    every_host_applies_the_same_dt,
    one_buffer_is_enough,
    rows_that_change_places_are_not_worse_than_eulers,
)
from flowsamplers.testing.laws.exactness import (
    applied_dt_sum_to_end_minus_start,
    memories_are_exact_once_full,
    polynomials_in_sigma_are_exact,
    rising_grids_are_run_or_refused,
    straight_paths_are_exact,
)
from flowsamplers.testing.laws.grids import (
    a_schedule_is_sound,
    a_schedule_runs_from_noise_to_data,
    a_shift_multiplies_the_odds,
    bad_grids_are_named,
    bad_steps_are_named,
    stored_dt_sum_to_end_minus_start,
)
from flowsamplers.testing.laws.hygiene import (
    dtype_and_device_are_kept,
    grad_mode_is_not_held_over_a_request,
    gradients_flow,
    inputs_and_modes_are_untouched,
    nothing_waits_for_the_device,
    tensors_belong_to_who_made_them,
    the_sampler_is_an_immutable_value,
)
from flowsamplers.testing.laws.orders import (
    order_holds_on_alternating_steps,
    order_is_the_declared_one,
    there_and_back_meet_to_the_order,
)
from flowsamplers.testing.laws.randomness import (
    data_points_keep_their_noise_level,
    marginals_are_kept_as_declared,
    noise_is_drawn_anew_for_every_step,
    seeds_determine_the_result,
    variances_have_the_declared_weak_order,
    without_noise_it_is_its_ode_twin,
)
from flowsamplers.testing.laws.symmetry import (
    permutations_of_rows_commute,
    rotations_commute,
    rows_do_not_see_each_other,
    scaling_sigma_changes_nothing,
    shapes_do_not_matter,
    translations_commute,
)

SAMPLER_LAWS: tuple[Callable[..., None], ...] = (
    applied_dt_sum_to_end_minus_start,
    straight_paths_are_exact,
    polynomials_in_sigma_are_exact,
    memories_are_exact_once_full,
    rising_grids_are_run_or_refused,
    order_is_the_declared_one,
    order_holds_on_alternating_steps,
    there_and_back_meet_to_the_order,
    rotations_commute,
    translations_commute,
    permutations_of_rows_commute,
    rows_do_not_see_each_other,
    shapes_do_not_matter,
    scaling_sigma_changes_nothing,
    evaluations_are_as_declared,
    requests_stay_inside_their_step,
    seeds_determine_the_result,
    noise_is_drawn_anew_for_every_step,
    without_noise_it_is_its_ode_twin,
    data_points_keep_their_noise_level,
    marginals_are_kept_as_declared,
    variances_have_the_declared_weak_order,
    inputs_and_modes_are_untouched,
    tensors_belong_to_who_made_them,
    grad_mode_is_not_held_over_a_request,
    dtype_and_device_are_kept,
    nothing_waits_for_the_device,
    gradients_flow,
    the_sampler_is_an_immutable_value,
    drivers_agree,
    every_host_applies_the_same_dt,
    copies_between_calls_change_nothing,
    edits_are_honoured,
    one_buffer_is_enough,
    a_cut_graph_stays_cut,
    rows_that_change_places_are_not_worse_than_eulers,
    bad_velocities_are_named,
)
"""Every law of a sampler, each callable with the subject alone."""

__all__ = [
    "DTYPES",
    "IRREGULAR",
    "SAMPLER_LAWS",
    "SEED",
    "Case",
    "NotApplicable",
    "a_cut_graph_stays_cut",
    "a_schedule_is_sound",
    "a_schedule_runs_from_noise_to_data",
    "a_shift_multiplies_the_odds",
    "applied_dt_sum_to_end_minus_start",
    "bad_grids_are_named",
    "bad_steps_are_named",
    "bad_velocities_are_named",
    "copies_between_calls_change_nothing",
    "data_points_keep_their_noise_level",
    "drivers_agree",
    "dtype_and_device_are_kept",
    "edits_are_honoured",
    "evaluations_are_as_declared",
    "every_host_applies_the_same_dt",
    "grad_mode_is_not_held_over_a_request",
    "gradients_flow",
    "inputs_and_modes_are_untouched",
    "marginals_are_kept_as_declared",
    "memories_are_exact_once_full",
    "noise_is_drawn_anew_for_every_step",
    "nothing_waits_for_the_device",
    "one_buffer_is_enough",
    "order_holds_on_alternating_steps",
    "order_is_the_declared_one",
    "permutations_of_rows_commute",
    "polynomials_in_sigma_are_exact",
    "requests_stay_inside_their_step",
    "rising_grids_are_run_or_refused",
    "rotations_commute",
    "rows_do_not_see_each_other",
    "rows_that_change_places_are_not_worse_than_eulers",
    "scaling_sigma_changes_nothing",
    "seeds_determine_the_result",
    "shapes_do_not_matter",
    "stored_dt_sum_to_end_minus_start",
    "straight_paths_are_exact",
    "tensors_belong_to_who_made_them",
    "the_sampler_is_an_immutable_value",
    "there_and_back_meet_to_the_order",
    "translations_commute",
    "variances_have_the_declared_weak_order",
    "without_noise_it_is_its_ode_twin",
]

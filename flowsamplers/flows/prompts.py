"""Default prompts of the bundled models."""

from __future__ import annotations

from typing import NamedTuple

from flowsamplers._accepted import refused

__all__ = ["default_prompts"]


class Prompts(NamedTuple):
    """The default prompts of a model.

    Attributes:
        given: prompts for images, studies and fits; one None for a model without prompts.
        held: other prompts, for validating a fit.
    """

    given: tuple[str | None, ...]
    held: tuple[str | None, ...]


BUNDLED = {
    "klein-digits": Prompts(("a handwritten 3", "the digit seven", "eight"), ("zero", "a handwritten 5", "the digit two")),
    "klein-emoji": Prompts(("pizza", "red heart", "penguin"), ("rocket", "cat face", "sunflower")),
}
"""Prompts by the name of a bundled model; its distilled version has the same."""
A_KLEIN = Prompts(*2 * (('A cat holding a sign that says "Gifu AI Study Group"',),))
WITHOUT = Prompts(*2 * ((None,),))


def default_prompts(model: str) -> Prompts:
    """Return the prompts for a model if the user gives none.

    Args:
        model: see `load_flow`. A model of another loader than Klein's, ``"loader:name"``, has no prompts.

    Examples:
        >>> default_prompts("klein-emoji-distilled").given
        ('pizza', 'red heart', 'penguin')
        >>> default_prompts("mixture:four-gaussians").given
        (None,)
    """
    if not isinstance(model, str):
        raise TypeError(str(refused("model", model, "a name")))
    if ":" in model or model == "mixture":
        return WITHOUT
    return BUNDLED.get(model.removesuffix("-distilled"), A_KLEIN)

"""Pickled weights are read only when the caller asks for them."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
import torch
from safetensors.torch import load_file

from flowsamplers_diffusers import load_klein


def test_pickled_weights_are_refused_unless_asked(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(str(files("flowsamplers_diffusers").joinpath("klein_digits")), folder)
    (weights,) = (folder / "transformer").glob("*.safetensors")
    torch.save(load_file(weights), folder / "transformer" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_klein(folder, device="cpu")

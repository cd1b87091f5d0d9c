"""A real ComfyUI for the marked tests: the checkout that FLOWSAMPLERS_COMFYUI names, on the CPU."""

import importlib.machinery
import os
import subprocess
import sys
import types
from pathlib import Path

CHECKOUT = os.environ.get("FLOWSAMPLERS_COMFYUI", "")


class StandIn(types.ModuleType):
    """A package of which ComfyUI needs names at import time only."""

    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def start():
    """Import ComfyUI once; torchvision and torchaudio have stand-ins where they are not installed."""
    import transformers  # noqa: F401  (it looks for the packages that get a stand-in)

    for package in ("torchvision", "torchaudio"):
        if importlib.util.find_spec(package) is None:
            for name in (package, f"{package}.transforms", f"{package}.functional"):
                sys.modules.setdefault(name, StandIn(name))
            sys.modules[package].transforms = sys.modules[f"{package}.transforms"]
    if CHECKOUT not in sys.path:
        sys.path.insert(0, CHECKOUT)
    before, sys.argv = sys.argv, ["comfyui", "--cpu", "--disable-xformers"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.sample
        import comfy.samplers
    finally:
        sys.argv = before
    return comfy


def commit():
    """The commit of the checkout, or its version where it has no git."""
    found = subprocess.run(["git", "-C", CHECKOUT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or Path(CHECKOUT).name

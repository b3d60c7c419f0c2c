"""Networks for receptive fields, and what their units see by trial: each pixel is changed, and outputs watched."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from nets import convolve

NAME = checkpoint_name


def weights(seed=0):
    """Return parameters without zeros."""
    shapes = {
        "w": (3, 3, 3, 3), "w5": (5, 2, 3, 3), "one": (1, 1, 3, 3), "depthwise": (3, 3, 1, 3), "wide": (3, 3, 1, 6),
        "two": (2, 2, 3, 3), "mix": (120, 120), "dense": (3, 3), "embed": (24, 5), "down": (18, 4), "b": (3,),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def edges_by_trial(net, params, size=(12, 10), frozen=False):
    """Return top, left, bottom and right of the pixels that change each element of `net(params, images)`, one image's.

    With `frozen`, `net(params, images, base)` makes gates and statistics of `base`, which is left as it is.
    """
    h, w = size
    rng = np.random.default_rng(1)
    # Small steps change what a sort puts in the middle, large ones a maximum.
    base, size = rng.normal(size=(4, 1, h, w, 3)), np.array([1.0, 3.0, 10.0, 40.0]).reshape(4, 1, 1, 1, 1)
    step = size * (1 + rng.random(size=base.shape)) * rng.choice([-1, 1], size=base.shape)
    spots = np.eye(h * w).reshape(1, h * w, h, w, 1)
    seen = np.array(False)
    for sign in (1, -1):  # of a maximum, one sign may change nothing
        after = base + sign * step * spots
        args = [np.broadcast_to(base, after.shape).reshape(-1, h, w, 3)] if frozen else []
        changed = np.asarray(net(params, jnp.asarray(after.reshape(-1, h, w, 3)), *args))
        still = np.asarray(net(params, jnp.asarray(base[:, 0]), *[base[:, 0]][: len(args)]))
        changed = changed.reshape(len(base), h * w, *changed.shape[1:])
        still = still[:, None]
        seen = seen | (np.abs(changed - still) > 1e-11 * (1 + np.abs(still))).any(0)
    return _ends(seen.reshape(h, w, *seen.shape[1:]))


def _ends(seen):
    ends = {}
    for side, (first, last) in enumerate((("top", "bottom"), ("left", "right"))):
        along = np.moveaxis(seen.any(1 - side), 0, -1)
        nothing = ~along.any(-1)
        ends[first] = np.where(nothing, 0, along.argmax(-1))
        ends[last] = np.where(nothing, 0, along.shape[-1] - along[..., ::-1].argmax(-1))
    return [ends[side] for side in ("top", "left", "bottom", "right")]


def bend(x):
    """Stand for an activation; of one that saturates, a trial would see nothing."""
    return x + jnp.sin(x)


def pad(x, mode):
    return jnp.pad(x, ((0, 0), (2, 1), (1, 2), (0, 0)), mode)


def pool(x, reducer, start, window=(3, 2), stride=(2, 1), padding="SAME", **options):
    return lax.reduce_window(x, start, reducer, (1, *window, 1), (1, *stride, 1), padding, **options)


def as_nchw(p, x):
    x = lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2), p["w"], (2, 1), "SAME", dimension_numbers=("NCHW", "HWIO", "NCHW")
    )
    return bend(x)  # fmt: skip


def attention(p, x):
    """Attend within windows of 4 x 5."""
    n, h, w, c = x.shape
    windows = x.reshape(n, h // 4, 4, w // 5, 5, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 20, c)
    scores = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", windows @ p["dense"], windows) / 9)
    mixed = (scores @ windows).reshape(n, h // 4, w // 5, 4, 5, c)
    return mixed.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)


def shuffle(x, groups):
    """Shuffle channels, as ShuffleNet does."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


def patches(p, x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 4, 4, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 4, w // 2, -1) @ p["embed"]


def pixel_shuffle(x):
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


def masked(p, x):
    """A causal convolution of PixelCNN: only rows above, and the same row to the left."""
    mask = np.ones((3, 3, 1, 1))
    mask[1, 1:] = mask[2] = 0
    return convolve(x, p["w"] * mask)


LAYERS = {
    "convolution": lambda p, x: convolve(x, p["w"]),
    "two, with strides": lambda p, x: convolve(bend(convolve(x, p["w"], 2)), p["w5"]),
    "no padding": lambda p, x: convolve(x, p["w5"], padding="VALID"),
    "padding beyond the kernel": lambda p, x: convolve(x, p["one"], padding=[(2, 1), (1, 3)]),
    "cropping padding": lambda p, x: convolve(x, p["w"], padding=[(-1, 2), (2, -2)]),
    "dilated": lambda p, x: convolve(convolve(x, p["w"], rhs_dilation=(2, 3)), p["w"], 2),
    "depthwise": lambda p, x: convolve(x, p["depthwise"], feature_group_count=3),
    "grouped, then split": lambda p, x: convolve(convolve(x, p["wide"], feature_group_count=3)[..., :3], p["w"]),
    "NCHW": as_nchw,
    "transposed convolution": lambda p, x: lax.conv_transpose(x, p["w"], (2, 2), "SAME"),
    "transposed convolution with holes": lambda p, x: lax.conv_transpose(x, p["one"], (3, 2), "VALID"),
    "transposed convolution after a strided one": lambda p, x: lax.conv_transpose(
        convolve(x, p["w"], 2), p["two"], (2, 2), "VALID"
    ),
    "max-pool": lambda p, x: pool(convolve(x, p["w"]), lax.max, -jnp.inf),
    "min-pool": lambda p, x: pool(x, lax.min, jnp.inf, padding="VALID"),
    "average pool": lambda p, x: pool(x, lax.add, 0.0, padding=[(0, 0), (2, 1), (1, 1), (0, 0)]),
    "dilated pool": lambda p, x: pool(x, lax.add, 0.0, window_dilation=(1, 2, 3, 1)),
    **{f"{mode} padding": lambda p, x, mode=mode: convolve(pad(convolve(x, p["w"]), mode), p["w"], padding="VALID")
       for mode in ("reflect", "edge", "wrap", "symmetric", "constant", "mean")},
    **{f"{method} resize to {size}": lambda p, x, method=method, size=size: jax.image.resize(
           convolve(x, p["w"]), (len(x), *size, 3), method)
       for method in ("nearest", "linear", "cubic", "lanczos3") for size in ((24, 20), (7, 13))},
    "resize without antialias": lambda p, x: jax.image.resize(x, (len(x), 5, 3, 3), "linear", antialias=False),
    "nearest by repeating": lambda p, x: jnp.repeat(jnp.repeat(convolve(x, p["w"]), 2, 1), 3, 2),
    "nearest by broadcasting": lambda p, x: jnp.broadcast_to(
        x[:, :, None, :, None], (len(x), 12, 2, 10, 2, 3)).reshape(-1, 24, 20, 3),
    "roll": lambda p, x: convolve(jnp.roll(x, (3, -2), (1, 2)), p["w"]),
    "flip": lambda p, x: convolve(x, p["w5"], 2)[:, ::-1, ::-1],
    "transposed map": lambda p, x: convolve(x.transpose(0, 2, 1, 3), p["w5"]),
    "rotation": lambda p, x: convolve(jnp.rot90(x, 1, (1, 2)), p["w5"]),
    "constant places": lambda p, x: convolve(x, p["w"])[:, jnp.array([1, -1, 3]), 2::3],
    "take with fill": lambda p, x: jnp.take(
        convolve(x, p["w"]), np.array([1, 40, 3]), axis=1, mode="fill", fill_value=0),
    "scattered": lambda p, x: convolve(jnp.zeros((len(x), 24, 20, 3)).at[:, ::2, ::2].set(x), p["w"]),
    "overwritten": lambda p, x: convolve(x.at[:, 2:5, 3].set(0.0), p["one"]),
    "added at places": lambda p, x: x.at[:, 1:3].add(convolve(x, p["w"])[:, 5:7]),
    "dynamic slice": lambda p, x: lax.dynamic_slice(convolve(x, p["w"]), (0, 2, 1, 0), (len(x), 5, 4, 3)),
    "dynamic update": lambda p, x: lax.dynamic_update_slice(x, convolve(x, p["w"])[:, :3], (0, 5, 0, 0)),
    "split": lambda p, x: convolve(jnp.split(convolve(x, p["w"]), [4, 7], axis=1)[1], p["w"]),
    "halves of channels": lambda p, x: jnp.concatenate([x[..., :1], convolve(x, p["w"])[..., 1:]], -1),
    "channel shuffle": lambda p, x: shuffle(
        jnp.concatenate([convolve(x, p["w"], feature_group_count=1), x], -1), 2),
    "joined along rows": lambda p, x: jnp.concatenate([convolve(x, p["w"]), x], 1),
    "mask": lambda p, x: convolve(x * (np.arange(10.0) > 3).astype(float)[None, None, :, None], p["w"]),
    "where": lambda p, x: jnp.where((np.arange(10) > 3)[None, None, :, None], convolve(x, p["w"]), x),
    "masked convolution": masked,
    "two masked convolutions": lambda p, x: masked(p, bend(masked(p, x))),
    "patches by reshape": patches,
    "patches by convolution": lambda p, x: lax.conv_general_dilated_patches(
        x, (3, 2), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
    "pixel shuffle": lambda p, x: pixel_shuffle(jnp.concatenate([x, convolve(x, p["w"]), x[..., :2]], -1)),
    "space to depth": lambda p, x: x.reshape(-1, 6, 2, 5, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 6, 5, 12),
    "blur of constants": lambda p, x: convolve(
        x, jnp.broadcast_to(np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1.0]])[..., None, None], (3, 3, 1, 3)),
        2, feature_group_count=3),
    "banded matrix": lambda p, x: jnp.einsum("oh,nhwc->nowc", np.eye(12) + np.eye(12, k=2), convolve(x, p["w"])),
    "cumsum": lambda p, x: jnp.cumsum(convolve(x, p["w"]), axis=1),
    "cumulative maximum backwards": lambda p, x: lax.cummax(convolve(x, p["w"]), axis=2, reverse=True),
    "sum over rows": lambda p, x: convolve(x, p["w"]).sum(1),
    "largest of columns": lambda p, x: convolve(x, p["w"]).max(2, keepdims=True),
    "sorted along columns": lambda p, x: jnp.sort(convolve(x, p["w"]), axis=2),
    "sorted channels": lambda p, x: jnp.sort(convolve(x, p["w"]), axis=3),
    "top k": lambda p, x: lax.top_k(convolve(x, p["w"]), 2)[0],
    "Fourier transform": lambda p, x: jnp.fft.fft(convolve(x, p["w"]), axis=2).real,
    "attention within windows": attention,  # strictly; else each query sees where it is from
    "tokens mixed": lambda p, x: (convolve(x, p["w"]).reshape(-1, 120, 3).swapaxes(1, 2) @ p["mix"]),
    "mean of a crop": lambda p, x: convolve(x, p["w"])[:, 2:5, 3:7].mean((1, 2)),
    "dense of a stride": lambda p, x: convolve(x, p["w"], 4, "VALID").reshape(len(x), -1) @ p["down"],
    "rounded": lambda p, x: jnp.round(8 * convolve(x, p["w"])),
    "local response normalization": lambda p, x: x / (1 + pool(
        jnp.pad(convolve(x, p["w"]) ** 2, ((0, 0), (0, 0), (0, 0), (1, 1))).sum(-1, keepdims=True),
        lax.add, 0.0, (1, 1), (1, 1))),
    "jit, remat, custom derivative": lambda p, x: jax.jit(jax.checkpoint(
        lambda y: jax.nn.silu(jax.nn.softplus(convolve(y, p["w"])))))(x),
    "mapped over images": lambda p, x: jax.vmap(lambda y: lax.conv_general_dilated(
        y.transpose(2, 0, 1)[None], p["w"].transpose(3, 2, 0, 1), (2, 1), "SAME")[0])(x),
    "strided slice": lambda p, x: convolve(x, p["w"])[:, 1::3, -1:2:-2],
    "diagonal": lambda p, x: jnp.diagonal(convolve(x, p["w"]), axis1=1, axis2=2),
}  # fmt: skip


# Gates and normalizations: `net(params, x, base)` makes of `base` what the spatial field leaves out.


def both(make):
    """Return a network whose first layer is of the images, and that of the gates of `base`, or of the images too."""
    return lambda p, x, base=None: make(p, convolve(x, p["w"]), convolve(x if base is None else base, p["w"]))


def normalized(x, base, axes, groups=None):
    if groups:
        x, base = (y.reshape(*y.shape[:-1], groups, -1) for y in (x, base))
    mean, scale = base.mean(axes, keepdims=True), jnp.sqrt(base.var(axes, keepdims=True) + 1e-3)
    result = (x - mean) / scale
    return result.reshape(*result.shape[:3], -1) if groups else result


def squeezed_by_pool(p, x, base):
    """As Flax writes it: a pool of everything, and a product that spreads it out again."""
    pooled = lax.reduce_window(base, 0.0, lax.add, (1, *x.shape[1:3], 1), (1, 1, 1, 1), "VALID")
    return x * jax.nn.sigmoid(0.01 * convolve(bend(pooled), p["one"]))


def channel_attention(p, x, base):
    """ECA: a convolution over the channels of the mean."""
    pooled = base.mean((1, 2))[..., None]
    kernel = p["w"][0, :, :1, :1]
    gate = lax.conv_general_dilated(pooled, kernel, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
    return jnp.einsum("nhwc,nc->nhwc", x, jax.nn.sigmoid(gate[..., 0]))


def coordinate_attention(p, x, base):
    down, across = base.mean(2, keepdims=True), base.mean(1, keepdims=True)
    return x * jax.nn.sigmoid(down @ p["dense"]) * jax.nn.sigmoid(convolve(across, p["one"]))


def global_context(p, x, base):
    n, h, w, c = base.shape
    weights = jax.nn.softmax((base @ p["dense"][:, :1]).reshape(n, h * w), axis=1)
    context = jnp.einsum("nt,ntc->nc", weights, base.reshape(n, h * w, c))
    return x + (bend(context) @ p["dense"])[:, None, None]


def global_response(p, x, base):
    """GRN of ConvNeXt V2."""
    norm = jnp.sqrt((base**2).sum((1, 2), keepdims=True) + 1e-6)
    return x + x * p["b"][None, None, None] * norm / (norm.mean(-1, keepdims=True) + 1e-6)


def image_pooling(p, x, base):
    """The image's mean beside the map, as in DeepLab's pyramid, enlarged from one position."""
    pooled = jax.image.resize(base.mean((1, 2), keepdims=True), x.shape, "linear")
    return convolve(
        jnp.concatenate([x, pooled], -1), jnp.concatenate([p["w"], p["two"][:1].repeat(3, 0)[:, :1].repeat(3, 1)], 2)
    )


def style_norm(p, x, base):
    """Conditional instance normalization in NCHW, then another layer."""
    x, base = x.transpose(0, 3, 1, 2), base.transpose(0, 3, 1, 2)
    x = (x - base.mean((2, 3), keepdims=True)) / base.std((2, 3), keepdims=True) * p["b"][None, :, None, None]
    return convolve(bend(x).transpose(0, 2, 3, 1), p["w"], 2)


GATES = {
    "squeeze and excitation": lambda p, x, base: x * jax.nn.sigmoid(base.mean((1, 2)) @ p["dense"])[:, None, None],
    "squeeze and excitation by a pool": squeezed_by_pool,
    "efficient channel attention": channel_attention,
    "coordinate attention": coordinate_attention,
    "instance normalization": lambda p, x, base: normalized(x, base, (1, 2)),
    "group normalization": lambda p, x, base: normalized(x, base, (1, 2, 4), groups=3),
    "layer normalization over everything": lambda p, x, base: normalized(x, base, (1, 2, 3)) * p["b"][None, None, None],
    "batch statistics": lambda p, x, base: normalized(x, base, (1, 2)),
    "global response normalization": global_response,
    "global context": global_context,
    "image pooling": image_pooling,
    "style normalization": style_norm,
    "softmax over positions": lambda p, x, base: jnp.exp(x) / jnp.exp(base).sum((1, 2), keepdims=True),
    "largest of all": lambda p, x, base: x / jnp.abs(base).max(),
    "two blocks": lambda p, x, base: squeezed_by_pool(p, convolve(normalized(x, base, (1, 2)), p["w5"]), base),
}

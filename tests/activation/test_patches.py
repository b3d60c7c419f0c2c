"""Top patches against a plain loop over all images, in any order, any batches, stopped and gone on with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from nets import convolve, small_net
from processes import on_eight_devices

import jaxviz
from jaxviz.data._source import Source
from jaxviz.image._files import load_image

IMAGES = np.random.default_rng(1).random((23, 32, 32, 3), np.float32)


SETTINGS = {"layer": ["relu_0", "relu_1"], "k": 4, "size": 32, "batch_size": 8}


def find(small_params, source=IMAGES, **options):
    return jaxviz.top_patches(small_net, small_params, source, **SETTINGS | options)


def test_all_images_one_by_one(small_params):
    found = find(small_params)
    assert found.seen == 23
    assert list(found.layers) == ["relu_0", "relu_1"]
    values = jaxviz.capture(small_net, ["relu_0", "relu_1"])(small_params, IMAGES)[1]
    names = np.array([str(i) for i in range(23)])
    for name, patches in found.layers.items():
        maps = np.asarray(values[name])
        for channel in range(maps.shape[-1]):
            strongest = maps[..., channel].max((1, 2))
            order = np.lexsort((names, -strongest))[:4]  # a dead channel's are those whose names sort first
            np.testing.assert_allclose(patches.values[channel], strongest[order], rtol=1e-5)
            np.testing.assert_array_equal(patches.indices[channel], order)
            assert patches.ids[channel] == [str(i) for i in order]
            for image, at in zip(order, patches.positions[channel], strict=True):
                assert maps[image, at[0], at[1], channel] == pytest.approx(strongest[image], rel=1e-5)


def test_a_box_is_what_the_unit_sees(small_params):
    """The patch alone, with whatever around it, makes the unit respond as it did."""
    patches = find(small_params, layer="relu_1").layers["relu_1"]
    for channel in range(6):
        image, (top, left, bottom, right) = patches.indices[channel, 0], patches.boxes[channel, 0]
        at, value = tuple(patches.positions[channel, 0]), patches.values[channel, 0]
        other = jnp.full_like(IMAGES[0], 0.3).at[top:bottom, left:right].set(IMAGES[image, top:bottom, left:right])
        assert (bottom - top) * (right - left) < 32 * 32 / 2
        got = jaxviz.capture(small_net, "relu_1")(small_params, other[None])[1]["relu_1"][0, *at, channel]
        assert float(got) == pytest.approx(value, rel=1e-5)


@pytest.mark.slow
def test_neither_batches_nor_order_matter(small_params):
    whole = find(small_params, batch_size=23)
    for batch_size in (1, 5, 64):
        part = find(small_params, batch_size=batch_size)
        for name, patches in whole.layers.items():
            np.testing.assert_array_equal(part.layers[name].indices, patches.indices)
            np.testing.assert_array_equal(part.layers[name].boxes, patches.boxes)
            np.testing.assert_allclose(part.layers[name].values, patches.values, rtol=1e-5)


def test_equal_values_go_by_name(folder, small_params):
    """Whatever the order of the source: three copies of one image in a list, forwards and backwards."""
    paths = [folder / "b" / f"{i}.png" for i in range(8)]
    there = [find(small_params, order, k=8, size=16, layer="relu_1") for order in (paths, paths[::-1])]
    assert there[0].layers["relu_1"].ids == there[1].layers["relu_1"].ids
    zeros = [np.zeros((8, 8, 3))] * 12  # names "0", "1", "10", "11", "2", ...
    found = find(small_params, zeros, k=3, size=8, batch_size=4).layers["relu_1"]
    assert found.ids[0] == ["0", "1", "10"]


def test_broken_images_are_skipped_and_listed(folder, small_params):
    with pytest.warns(UserWarning, match="2 of 13 images could not be read"):
        found = find(small_params, folder, size=16, k=13)
    assert sorted(found.skipped) == ["a.jpg", "b/3b.png"]
    assert found.seen == 13
    patches = found.layers["relu_0"]
    assert patches.ids[0].count("") == 2
    assert set(patches.ids[0]) >= {"gray.png", "one.png", "large.jpg"}
    np.testing.assert_array_equal(patches.indices[:, 11:], -1)
    np.testing.assert_array_equal(patches.values[:, 11:], -np.inf)
    crop = load_image(folder / "gray.png", size=16)
    assert crop.shape == (16, 16, 3)


def test_stopped_and_gone_on_with(small_params):
    whole = find(small_params)
    seen = []

    def stop(found):
        seen.append(found.seen)
        return len(seen) == 2

    stopped = find(small_params, callback=stop)
    assert seen == [8, 16]
    assert stopped.seen == 16
    rest = []
    again = find(small_params, resume=stopped.state, callback=lambda found: rest.append(found.seen))
    assert rest == [23]
    for name, patches in whole.layers.items():
        for one, other in zip(patches, again.layers[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_it_grows_with_its_source(small_params):
    """Whatever the order: the names of what is new come before, between and behind those that were there."""
    names = np.array([str(i) for i in np.random.default_rng(2).permutation(23)])
    read = dict(zip(names, IMAGES, strict=True)).__getitem__
    source = lambda names: Source(sorted(names), lambda i: read(sorted(names)[i]))
    part = find(small_params, source(names[:10]))
    seen = []
    grown = find(small_params, source(names), resume=part.state, callback=lambda found: seen.append(found.seen))
    assert seen == [18, 23]
    for name, patches in find(small_params, source(names)).layers.items():
        other = grown.layers[name]
        assert other.ids == patches.ids
        np.testing.assert_array_equal(other.indices, patches.indices)
        np.testing.assert_array_equal(other.boxes, patches.boxes)
        np.testing.assert_allclose(other.values, patches.values, rtol=1e-5)
    assert find(small_params, source(names), resume=grown.state, callback=seen.append).seen == 23
    assert seen == [18, 23]  # nothing was left to do


def test_a_vector_sees_the_whole_image(small_params):
    found = find(small_params, layer="dense_0", k=2).layers["dense_0"]
    np.testing.assert_array_equal(found.boxes, np.broadcast_to([0, 0, 32, 32], (5, 2, 4)))
    outputs = np.asarray(small_net(small_params, IMAGES))
    np.testing.assert_array_equal(found.indices, np.argsort(-outputs, axis=0)[:2].T)


@pytest.mark.slow
def test_several_devices_find_the_same(small_params, tmp_path):
    script = """
        import sys, jax, numpy as np, jaxviz
        from nets import small_net
        assert jax.local_device_count() == 8
        params = dict(np.load(sys.argv[1]))
        images = params.pop("images")
        found = jaxviz.top_patches(small_net, params, images, layer="relu_1", k=4, size=32, batch_size=7)
        kept = jaxviz.features(small_net, params, images, layer="relu_1", size=32, batch_size=7).values
        patches = found.layers["relu_1"]
        np.savez(sys.argv[2], values=patches.values, indices=patches.indices, boxes=patches.boxes, features=kept)
    """
    np.savez(tmp_path / "given.npz", images=IMAGES, **small_params)
    files = [str(tmp_path / name) for name in ("given.npz", "found.npz")]
    on_eight_devices(script, *files)
    eight, one = np.load(files[1]), find(small_params, layer="relu_1").layers["relu_1"]
    np.testing.assert_array_equal(eight["indices"], one.indices)
    np.testing.assert_array_equal(eight["boxes"], one.boxes)
    np.testing.assert_allclose(eight["values"], one.values, rtol=1e-5)
    kept = jaxviz.features(small_net, small_params, IMAGES, layer="relu_1", size=32).values
    np.testing.assert_allclose(eight["features"], kept, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "relu_7"}, "no layer 'relu_7'.*relu_0"),
        ({"k": 0}, "expected a k and a batch_size of 1 or more, got 0 and 8"),
        ({"batch_size": 0}, "expected a k and a batch_size of 1 or more, got 4 and 0"),
    ],
)
def test_errors(options, message, small_params):
    with pytest.raises(ValueError, match=message):
        find(small_params, **options)


def test_the_state_of_another_run_is_refused(small_params):
    state = find(small_params).state
    for other in ({"k": 3}, {"layer": "relu_0"}):
        with pytest.raises(ValueError, match="resume: this state belongs to a run with other layers or another k"):
            find(small_params, resume=state, **other)
    others = ({"size": 16}, jax.tree.map(lambda x: x + 1, small_params))
    for params, options in ((small_params, others[0]), (others[1], {})):
        with pytest.raises(ValueError, match="resume: this state belongs to a run with other parameters"):
            find(params, resume=state, **options)
    with pytest.raises(ValueError, match="resume: this state belongs to a network that has these parameters but"):
        jaxviz.top_patches(lambda p, x: small_net(p, 1 - x), small_params, IMAGES, resume=state, **SETTINGS)
    changed = np.concatenate([IMAGES[:7], 1 - IMAGES[7:8], IMAGES[8:]])
    for images, name in ((IMAGES[:20], 20), (changed, 7)):
        with pytest.raises(ValueError, match=f"resume: this state belongs to .* other images: {name} is gone or"):
            find(small_params, images, resume=state)


def test_what_could_not_be_read_is_tried_again_once_it_has_changed(small_params, tmp_path):
    for i, image in enumerate(IMAGES):
        jaxviz.save_image(tmp_path / f"{i:02d}.png", image)
    good = (tmp_path / "03.png").read_bytes()
    (tmp_path / "03.png").write_bytes(b"bad")
    (tmp_path / "05.png").write_bytes(b"bad")
    first, seen = find(small_params, tmp_path), []
    assert len(first.skipped) == 2
    (tmp_path / "03.png").write_bytes(good)
    (tmp_path / "05.png").unlink()
    again = find(small_params, tmp_path, resume=first.state, callback=lambda found: seen.append(found.seen))
    assert seen == [22]
    assert not again.skipped
    for name, patches in find(small_params, tmp_path).layers.items():
        assert again.layers[name].ids == patches.ids
        np.testing.assert_array_equal(again.layers[name].boxes, patches.boxes)
        np.testing.assert_allclose(again.layers[name].values, patches.values, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.reshape(len(x), -1, 2, 4), r"top_patches: expected a map .* got shape \(1, 1024, 2, 4\)"),
        (lambda x: x.reshape(-1, 16, 32, 8), r"got shape \(2, 16, 32, 8\), .* axis 0 has images and rows together"),
    ],
)
def test_a_layer_that_is_no_image_map(change, message, small_params):
    net = lambda params, images: checkpoint_name(change(convolve(images, params["w1"])), "out")
    with pytest.raises(ValueError, match=message):
        jaxviz.top_patches(net, small_params, IMAGES, layer="out", size=32)


def test_rows_and_columns_where_they_are(small_params):
    """A layer whose columns come before its rows has the patches of one whose do not."""

    def net(params, images):
        x = convolve(images, params["w1"])
        turned = checkpoint_name(x.transpose(3, 0, 2, 1), "turned")
        return checkpoint_name(x * 1.0, "plain"), turned

    found = find_in(net, small_params, ["plain", "turned"])
    for one, other in zip(found.layers["plain"][:4], found.layers["turned"][:4], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(np.unique(found.layers["plain"].positions[..., 0] - found.layers["plain"].positions[..., 1])) > 3


def find_in(net, params, layer):
    return jaxviz.top_patches(net, params, IMAGES[:6], layer=layer, k=3, size=32, batch_size=3)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("name", ["k", "batch_size"])
def test_numbers_are_whole(name, small_params):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1, got 2.5"):
        find(small_params, **{name: 2.5})


def test_labels_of_the_images_with_patches(small_params):
    """Through a stop and a resume, and from states that earlier versions saved without them."""
    images = np.random.default_rng(3).random((9, 16, 16, 3), np.float32)
    labels = [f"class {i % 4}" if i != 5 else None for i in range(9)]
    source = list(zip(images, labels, strict=True))
    options = {"layer": "relu_1", "k": 1, "batch_size": 2}
    found = jaxviz.top_patches(small_net, small_params, source, **options)
    names = {name for row in found.layers["relu_1"].ids for name in row} - {"5"}
    assert found.labels == {name: labels[int(name)] for name in names}
    part = jaxviz.top_patches(small_net, small_params, source, callback=lambda found: found.seen > 3, **options)
    again = jaxviz.top_patches(small_net, small_params, source, resume=part.state, **options)
    assert again.labels == found.labels
    old = {name: value for name, value in found.state.items() if name != "labels"}
    assert jaxviz.top_patches(small_net, small_params, source, resume=old, **options).labels == {}
    assert jaxviz.top_patches(small_net, small_params, images, **options).labels == {}

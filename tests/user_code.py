"""Code as users write it, with NumPy's arrays: checked by pyright, never run, so in a function (test_user_code.py)."""

import jax
import numpy as np

import jaxviz


def use() -> None:
    net = lambda params, images: jax.nn.relu(images @ params).mean((1, 2))
    params = np.eye(3, dtype=np.float32)
    images = np.full((2, 16, 16, 3), 0.5, np.float32)
    maps = np.ones((2, 16, 16), np.float32)
    key = jax.random.key(0)
    score = jaxviz.logit(net, np.array([0, 1])) + 0.1 * jaxviz.channel(net, "relu_0", 1)

    jaxviz.embedding_page(
        found_of := jaxviz.features(net, params, images, layer=None), images, "page.html", labels=[0, 1]
    )
    print(found_of.values)
    jaxviz.layers(net, params, images)
    _, values = jaxviz.capture(net, "relu_0")(params, images)
    print(values["relu_0"].shape)
    jaxviz.replace(net, {"relu_0": np.zeros(3)})(params, images)
    jaxviz.with_relu(net, "guided")(params, images)
    jaxviz.receptive_field(net, params, images, "relu_0")
    jaxviz.blur(jaxviz.resize(images, (8, 8)), 1.0)
    jaxviz.save_image("x.png", jaxviz.montage(images))
    jaxviz.save_image("x.png", jaxviz.overlay(images[0], maps[0]))
    jaxviz.save_image("x.png", jaxviz.normalize(maps)[0])
    jaxviz.save_image("x.png", images[0])
    jaxviz.gradient(score, params, images).sum()
    jaxviz.saliency(score, params, images).sum()
    jaxviz.input_x_gradient(score, params, images)
    jaxviz.guided_backprop(score, params, images)
    jaxviz.deconvnet(score, params, images)
    jaxviz.smoothgrad(score, params, key, images)
    jaxviz.integrated_gradients(score, params, images, baseline=images)
    jaxviz.lrp(score, params, images)
    jaxviz.occlusion(score, params, images)
    jaxviz.rise(score, params, key, images)
    jaxviz.grad_cam(score, params, images, layer="relu_0")
    jaxviz.guided_grad_cam(score, params, images, layer="relu_0")
    jaxviz.attention_rollout(net, params, images)
    jaxviz.attention_relevance(score, params, images)
    jaxviz.deletion(score, params, images, maps)
    jaxviz.insertion(score, params, images, maps)
    jaxviz.pointing_game(maps, np.array([[0, 0, 4, 4], [0, 0, 4, 4]]))
    jaxviz.rank_correlation(maps, maps)
    found = jaxviz.features(net, params, images, layer="relu_0")
    jaxviz.neighbors(found.values, found.values, k=1)
    points = jaxviz.tsne(found.values, key)
    jaxviz.grid_layout(points)
    jaxviz.pca(found.values)
    jaxviz.pca_colors(np.zeros((1, 4, 4, 8)))
    jaxviz.top_patches(net, params, images, layer="relu_0")
    jaxviz.filters(params)
    made = jaxviz.ascend(score, params, key, start=images, size=16)
    jaxviz.save_image("x.png", made.images[0])
    print(made.images.at[0].set(0.0))
    jaxviz.dream(score, params, key, images)
    jaxviz.fool(net, params, images, target="cat")
    jaxviz.invert(net, params, key, images, layer="relu_0", start=images)
    jaxviz.texture(net, params, key, images[0])
    jaxviz.stylize(net, params, key, images[0], images[1], start=images)
    jaxviz.match_features(net, params, images, layers=["relu_0"])
    jaxviz.match_grams(net, params, images, layers=["relu_0"])
    jaxviz.gram(images)
    jaxviz.style_net(params, images)
    jaxviz.restyle(params, images[0], style="scream")
    jaxviz.crops(size=8)
    jaxviz.load_image(images[0])
    jaxviz.export_style_net(params)
    jaxviz.neuron(net, "relu_0", np.array([0, 1]), (np.array([0, 1]), 1))
    jaxviz.direction(net, "relu_0", np.ones(3))
    jaxviz.diversity(net, "relu_0")
    patches = jaxviz.top_patches(net, params, images, layer="relu_0")
    jaxviz.patches_page(net, params, patches, images, "page.html", channels=[0, 1], beside=jaxviz.deconvnet)
    jaxviz.tour(images[0], "tour", network=jaxviz.Network(net, params, classes=["a", "b", "c"]))
    jaxviz.sanity_check(
        net,
        params,
        key,
        images,
        method=lambda params, images: jaxviz.saliency(score, params, images),
        layers=["relu_0"],
    )
    jaxviz.efros_leung(key, images[0], size=(20, 20))
    jaxviz.draw(maps[0], over=images[0])
    jaxviz.resemblance(net, params, images, layer="relu_0")
    jaxviz.plot({"saliency": maps, "again": maps}, images=images, scale="shared", path="maps.pdf")
    jaxviz.facets(net, params, images, layer="relu_0")
    jaxviz.activation_grid(net, params, key, images[0], layer="relu_0").picture()
    jaxviz.ascend(jaxviz.caricature(net, params, images, "relu_0"), params, key, progress=True)
    jaxviz.save_table("features.parquet", found)
    jaxviz.save_video("dream.mp4", jaxviz.dream_zoom(score, params, key, images, frames=3))

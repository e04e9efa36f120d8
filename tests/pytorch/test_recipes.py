"""The recipe inside a pruned file, for the code that the model came from; and the chain of several prunings."""

from __future__ import annotations

import json
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", minversion="2.4")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import pfa_onnx  # noqa: E402
import pfa_onnx.torch as pt  # noqa: E402
from pfa_onnx import Method  # noqa: E402
from pfa_onnx.errors import StatsError, UsageError  # noqa: E402

HALF = Method("uniform", ratio=0.5)
KEPT = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}


class Network(nn.Module):
    """What users have: a residual block, a depthwise and a grouped convolution, a flattened image, two linear layers."""

    def __init__(self, width=16, hidden=24):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, 2, 1, groups=width)
        self.grouped = nn.Conv2d(width, 2 * width, 3, 2, 1, groups=2)
        self.slope = nn.PReLU(2 * width)
        self.hidden = nn.Linear(2 * width * 4, hidden)
        self.head = nn.Linear(hidden, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + functional.relu(self.norm(self.first(x)))
        x = self.slope(self.grouped(self.depthwise(x)))
        return self.head(functional.gelu(self.hidden(x.flatten(1))))


def make(seed=0):
    torch.manual_seed(seed)
    network = Network()
    with torch.no_grad():  # statistics as a trained network has them: no two are equal
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.uniform_(0.5, 1.5)
        network.slope.weight.uniform_(0.1, 0.4)
    return network.eval()


def export(network, path, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, torch.zeros(2, 3, 8, 8), str(path), dynamo=False, opset_version=17, input_names=["image"],
            output_names=["scores"], dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}}, **settings,
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(160, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("recipes")
    export(make(), folder / "kept.onnx", **KEPT)
    export(make(), folder / "folded.onnx")
    for name in ("kept", "folded"):
        pfa_onnx.prune(folder / f"{name}.onnx", images, HALF, output=folder / f"{name}.small.onnx")
    return folder


def answers(path, images):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def same(network, path, images):
    with torch.no_grad():
        made = network.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(made, answers(path, images), atol=1e-5)


# --- the user's own network ---------------------------------------------------------------------------------


def test_a_network_is_cut_to_what_the_file_has(files, images):
    network = pt.slice_module(make(), files / "kept.small.onnx")
    same(network, files / "kept.small.onnx", images)
    assert network.stem[0].out_channels == network.stem[1].num_features == network.depthwise.groups == 8
    assert network.depthwise.in_channels == 8
    assert (network.grouped.groups, network.grouped.in_channels, network.grouped.out_channels) == (2, 8, 16)
    assert (network.hidden.in_features, network.hidden.out_features, network.slope.num_parameters) == (64, 12, 16)
    assert "out_features=12" in str(network)


def test_it_trains_on_in_the_users_own_loop(files, images):
    """The worked example of the README."""
    network = pt.slice_module(make(), files / "kept.small.onnx").train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    inputs = torch.from_numpy(images)
    labels = (inputs.mean((1, 2, 3)) > 0).long()
    before = network.stem[1].running_mean.clone()
    losses = []
    for _ in range(30):
        loss = functional.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(network.stem[1].running_mean, before)


def test_a_state_goes_into_a_network_that_was_built_smaller(files, images):
    state = pt.slice_state_dict(make().state_dict(), files / "kept.small.onnx")
    network = Network(width=8, hidden=12)
    network.load_state_dict(state)
    same(network, files / "kept.small.onnx", images)


def test_a_recipe_may_be_given_as_it_is_read(files):
    state = make().state_dict()
    wanted = pt.slice_state_dict(state, files / "kept.small.onnx")
    found = pfa_onnx.recipe_of(files / "kept.small.onnx")
    for recipe in (found, found.content, json.loads(json.dumps(found.content))):
        sliced = pt.slice_state_dict(state, recipe)
        assert all(torch.equal(sliced[name], wanted[name]) for name in wanted)


def test_weights_that_the_exporter_renamed_are_found_by_their_numbers(tmp_path, images):
    """Linear layers behind a sequence axis are exported as MatMul, with transposed weights of invented names."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3)).eval()
    path, data = tmp_path / "model.onnx", images.reshape(160, -1, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, torch.zeros(1, 24, 8), str(path), dynamo=False, input_names=["image"],
                          dynamic_axes={"image": {0: "n"}})  # fmt: skip
    small = tmp_path / "small.onnx"
    pfa_onnx.prune(path, data, HALF, output=small)
    with pytest.raises(UsageError, match="have other names there") as caught:
        pt.slice_module(network, small)
    assert "original=FILE" in caught.value.fix
    same(pt.slice_module(network, small, original=path), small, data)


def test_a_folded_normalisation_is_refused_with_the_way_out(files):
    with pytest.raises(UsageError, match="have other names there") as caught:
        pt.slice_state_dict(make().state_dict(), files / "folded.small.onnx")
    assert "TrainingMode.PRESERVE" in caught.value.fix
    with pytest.raises(UsageError, match="have other names"):
        pt.slice_state_dict(make().state_dict(), files / "folded.small.onnx", original=files / "folded.onnx")


def test_the_original_must_be_the_one(files):
    with pytest.raises(StatsError, match="not the model that was pruned"):
        pt.slice_state_dict(make().state_dict(), files / "kept.small.onnx", original=files / "folded.onnx")


def test_a_file_without_a_recipe_is_refused(files):
    with pytest.raises(StatsError, match="no recipe inside"):
        pt.slice_state_dict(make().state_dict(), files / "kept.onnx")


def test_a_state_of_another_width_is_refused(files):
    with pytest.raises(StatsError, match="cannot be cut"):
        pt.slice_state_dict(Network(width=4).state_dict(), files / "kept.small.onnx")


# --- the chain ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twice(files, images):
    pfa_onnx.prune(files / "kept.small.onnx", images, HALF, output=files / "kept.tiny.onnx")
    return files / "kept.tiny.onnx"


def test_indices_lead_back_to_the_first_original(files, twice):
    chain = pfa_onnx.recipe_of(twice).chain
    assert [one.previous is None for one in chain] == [True, False]
    assert chain[0].content == pfa_onnx.recipe_of(files / "kept.small.onnx").content
    found = pfa_onnx.recipe_of(twice)
    first, second = (one.kept["/stem/stem.0/Conv_output_0"] for one in chain)
    assert found.kept_of_first["/stem/stem.0/Conv_output_0"] == tuple(first[k] for k in second)
    assert found.kept_of(chain[1].original_sha256)["/stem/stem.0/Conv_output_0"] == second
    assert found.kept_of("of another model") is None


def test_a_network_is_cut_through_the_whole_chain(twice, images):
    network = pt.slice_module(make(), twice)
    same(network, twice, images)
    assert network.stem[0].out_channels == 4


def test_every_constant_is_cut_through_the_whole_chain(files, twice):
    whole = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(files / "kept.onnx").graph.initializer}
    tiny = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(twice).graph.initializer}
    found = pfa_onnx.recipe_of(twice)
    for name, array in tiny.items():
        np.testing.assert_array_equal(found.cut(name, whole[name]), array)


def test_prune_finetune_prune(files, images, tmp_path):
    """The middle of the chain keeps how it was trained."""
    np.save(tmp_path / "images.npy", images)
    tuned, last = tmp_path / "tuned.onnx", tmp_path / "last.onnx"
    chosen = pfa_onnx.Training(epochs=3, rate=1e-4)
    pfa_onnx.finetune(files / "kept.small.onnx", images, chosen, teacher=files / "kept.onnx", output=tuned)
    pfa_onnx.prune(tuned, images, HALF, output=last)
    chain = pfa_onnx.recipe_of(last).chain
    assert ["finetune" in one.content for one in chain] == [True, False]
    assert chain[1].original_sha256 != chain[0].original_sha256
    found = pfa_onnx.finetune(last, images, chosen, teacher=files / "kept.onnx", output=tmp_path / "again.onnx")
    assert found.history  # the very first original is still a teacher
    pfa_onnx.finetune(last, images, chosen, teacher=tuned, output=tmp_path / "again2.onnx")


# --- broken recipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(layers=3),
        lambda c: c.pop("original_sha256"),
        lambda c: next(iter(c["layers"].values())).update(keep=[3, 1]),
        lambda c: next(iter(c["layers"].values())).update(keep=[10**9]),
        lambda c: c["constants"].update(indices="none"),
        lambda c: next(iter(c["constants"]["taken"].values())).update(steps=[[[0], 10**6, [3]]]),
        lambda c: next(iter(c["constants"]["taken"].values())).update(steps=[[[0], 0, [10**6]]]),
        lambda c: c.update(previous=[]),
    ],
)
def test_a_broken_recipe_is_said_to_be_one(files, tmp_path, change):
    proto = onnx.load(files / "kept.small.onnx")
    content = json.loads(proto.metadata_props[0].value)
    change(content)
    proto.metadata_props[0].value = json.dumps(content)
    onnx.save(proto, tmp_path / "broken.onnx")
    with pytest.raises(StatsError, match="recipe inside the model is broken"):
        pfa_onnx.recipe_of(tmp_path / "broken.onnx")


def test_metadata_that_are_no_json_are_no_recipe(files, tmp_path):
    proto = onnx.load(files / "kept.small.onnx")
    proto.metadata_props[0].value = "{" * 100_000
    onnx.save(proto, tmp_path / "broken.onnx")
    with pytest.raises(StatsError, match="recipe inside the model is broken"):
        pfa_onnx.recipe_of(tmp_path / "broken.onnx")

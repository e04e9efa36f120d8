"""Fine-tuning from the command line and from Python: what it learns, what it writes, how it ends early."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import NETWORKS, feeds
from onnx import numpy_helper
from support import run

torch = pytest.importorskip("torch", minversion="2.4")

import pfa_onnx  # noqa: E402
from pfa_onnx import DataOptions, Hooks, Method, PlanOptions, Training  # noqa: E402
from pfa_onnx.cli import main  # noqa: E402
from pfa_onnx.errors import DataError, ModelError, PfaError, StatsError, TrainingError, UsageError  # noqa: E402
from pfa_onnx.torch import load  # noqa: E402

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion"
MODEL, IMAGES = SAMPLE / "model.onnx", SAMPLE / "images"
QUICK = Training(epochs=2, rate=1e-3, augment=())


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """The sample cut to a half, nothing mended: it answers at random."""
    output = tmp_path_factory.mktemp("pruned") / "half.onnx"
    pfa_onnx.prune(MODEL, str(IMAGES), Method("uniform", ratio=0.6), output=output)
    return output


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """The sample's images as the model takes them, with labels."""
    from pfa_onnx.graph.model import load
    from pfa_onnx.steps.measure import open_dataset

    data = open_dataset(load(MODEL), DataOptions(data=str(IMAGES)))
    batches = list(data.batches(64))
    images = np.concatenate([batch.feeds["image"] for batch in batches])
    labels = [data.classes.index(label) for batch in batches for label in batch.labels]
    path = tmp_path_factory.mktemp("arrays")
    np.savez(path / "labelled.npz", image=images, labels=np.array(labels))
    np.save(path / "images.npy", images)
    return path


def tune(pruned, data, output, training=QUICK, teacher=MODEL, **more):
    return pfa_onnx.finetune(pruned, str(data), training, teacher=teacher, output=output, **more)


def interrupted_in(epoch):
    """Hooks that press Ctrl-C in the middle of an epoch; warnings are collected in the list that comes along."""
    warnings = []

    def progress(phase, done, total):
        if phase.startswith(f"epoch {epoch} ") and done == 3:
            raise KeyboardInterrupt

    return Hooks(progress=progress, warn=warnings.append), warnings


# --- what it learns -----------------------------------------------------------------------------------------


def test_it_learns_from_the_original_without_labels(pruned, arrays, tmp_path):
    found = tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", replace(QUICK, epochs=6))
    assert found.before.agreement < 0.5 < 0.75 < found.after.agreement
    assert found.after.loss < found.before.loss / 4
    assert found.after.accuracy is None
    checked = pfa_onnx.check(MODEL, tmp_path / "out.onnx", str(IMAGES), latency=False)
    assert checked.metrics["agreement"] > 0.75


def test_it_learns_from_labels_alone(pruned, arrays, tmp_path):
    chosen = replace(QUICK, epochs=6, labels=True)
    found = tune(pruned, arrays / "labelled.npz", tmp_path / "out.onnx", chosen, teacher=None)
    assert found.before.accuracy < 0.5 < 0.7 < found.after.accuracy
    assert found.after.agreement is None


def test_it_learns_from_labels_and_the_original(pruned, tmp_path):
    chosen = replace(QUICK, epochs=6, labels=True, augment=None)
    found = tune(pruned, IMAGES, tmp_path / "out.onnx", chosen)
    assert found.method["augment"] == ["shift"]  # mirrored digits have other labels
    assert found.after.accuracy > 0.7
    assert found.after.agreement > 0.7
    assert found.teacher_accuracy > 0.9


def test_responses_of_layers_help(pruned, arrays, tmp_path):
    found = tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", replace(QUICK, responses=1.0))
    assert found.after.loss < found.before.loss / 2
    assert found.method["responses"] == 1.0


def test_sgd_and_half_precision(pruned, arrays, tmp_path):
    chosen = replace(QUICK, optimizer="sgd", rate=0.05, precision="mixed")
    found = tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", chosen)
    assert found.after.loss < found.before.loss / 2


def test_the_best_epoch_is_written_and_training_stops_when_nothing_gets_better(arrays, tmp_path):
    """The original as its own pruned model: it can only get worse."""
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(MODEL.read_bytes())
    found = tune(copy, arrays / "images.npy", tmp_path / "out.onnx", Training(epochs=20, rate=0.02, patience=2))
    assert (found.best, len(found.history)) == (0, 3)
    assert weights(tmp_path / "out.onnx") == weights(MODEL)


# --- what it writes -----------------------------------------------------------------------------------------


def weights(path):
    return {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in onnx.load(path).graph.initializer}


def without_weights(path):
    proto = onnx.load(path)
    shapes = {t.name: (list(t.dims), t.data_type) for t in proto.graph.initializer}
    del proto.graph.initializer[:]
    del proto.metadata_props[:]
    return proto.SerializeToString(deterministic=True), shapes


def recipe(path):
    return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["pfa_onnx.recipe"])


def test_nothing_changes_but_weights(pruned, arrays, tmp_path):
    tune(pruned, arrays / "images.npy", tmp_path / "out.onnx")
    assert without_weights(tmp_path / "out.onnx") == without_weights(pruned)
    assert weights(tmp_path / "out.onnx") != weights(pruned)
    before, after = recipe(pruned), recipe(tmp_path / "out.onnx")
    assert after.pop("finetune")["best"] >= 1
    assert after == before
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


def test_the_same_seed_gives_the_same_bytes(pruned, tmp_path):
    chosen = Training(epochs=1)  # with augmentation
    for name in ("one", "other"):
        tune(pruned, IMAGES, tmp_path / f"{name}.onnx", chosen)
    tune(pruned, IMAGES, tmp_path / "third.onnx", replace(chosen, seed=1))
    one, other, third = ((tmp_path / f"{name}.onnx").read_bytes() for name in ("one", "other", "third"))
    assert one == other != third


# --- how it ends early --------------------------------------------------------------------------------------


def test_an_interrupted_run_keeps_the_best_and_goes_on_as_if_nothing_had_been(pruned, tmp_path):
    chosen = Training(epochs=3)
    tune(pruned, IMAGES, tmp_path / "whole.onnx", chosen)
    hooks, warnings = interrupted_in(epoch=3)
    with pytest.raises(KeyboardInterrupt):
        tune(pruned, IMAGES, tmp_path / "out.onnx", chosen, hooks=hooks)
    assert "out.onnx holds the best so far, after epoch 2; the same command with --resume goes on" in warnings[-1]
    assert weights(tmp_path / "out.onnx") != weights(pruned)
    assert (tmp_path / "out.onnx.partial").exists()
    found = tune(pruned, IMAGES, tmp_path / "out.onnx", chosen, resume=True)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert not (tmp_path / "out.onnx.partial").exists()
    again = tune(pruned, IMAGES, tmp_path / "out.onnx", chosen, resume=True, hooks=interrupted_in(epoch=1)[0])
    assert (again.history, again.best) == (found.history, found.best)


def test_an_interrupt_before_anything_got_better_writes_nothing(pruned, arrays, tmp_path):
    hooks, warnings = interrupted_in(epoch=1)
    with pytest.raises(KeyboardInterrupt):
        tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", hooks=hooks)
    assert "nothing was written" in warnings[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_run_is_refused(pruned, arrays, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", hooks=interrupted_in(epoch=2)[0])
    with pytest.raises(StatsError, match="of another run"):
        tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", replace(QUICK, seed=9), resume=True)
    (tmp_path / "out.onnx.partial").write_bytes(b"no checkpoint")
    with pytest.raises(StatsError, match="checkpoint is broken"):
        tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", resume=True)


def test_a_loss_that_is_no_number_names_the_layer_and_keeps_the_best(pruned, arrays, tmp_path, monkeypatch):
    from pfa_onnx.torch.trainer import Trainer

    def broken(self, batch, at):
        if at.startswith("epoch 2"):
            with torch.no_grad():
                self.student.get_parameter("wide.conv.weight" if False else list(self.student.state_dict())[4]).fill_(
                    np.nan
                )
        return step(self, batch, at)

    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", broken)
    with pytest.raises(
        TrainingError, match=r"the loss is nan in epoch 2, step 1; .*holds the best so far, after epoch 1"
    ) as caught:
        tune(pruned, arrays / "images.npy", tmp_path / "out.onnx")
    assert caught.value.at in {node.name for node in onnx.load(pruned).graph.node}
    assert caught.value.exit_code == 1
    assert np.isfinite([np.frombuffer(raw, np.float32).sum() for raw in weights(tmp_path / "out.onnx").values()]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]  # going on would lead to the same numbers


def test_a_rate_that_is_far_too_high_writes_nothing(pruned, arrays, tmp_path):
    chosen = replace(QUICK, optimizer="sgd", rate=1e25)
    try:
        found = tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", chosen)
    except TrainingError as error:
        assert "nothing was written" in str(error)
        assert list(tmp_path.iterdir()) == []
    else:
        assert found.best == 0


# --- any network --------------------------------------------------------------------------------------------


def _tuned_at_all(name, folder):
    """Cut a network by half and train it for an epoch; the weights change, and the model still runs."""
    proto = NETWORKS[name](np.random.default_rng(0))
    model, small, out, data = (folder / name for name in ("model.onnx", "small.onnx", "out.onnx", "data.npz"))
    onnx.save(proto, model)
    fed = feeds(proto, np.random.default_rng(1), n=24)
    np.savez(data, **fed)
    try:
        plan = PlanOptions(allow_few_samples=True)
        pfa_onnx.prune(model, str(data), Method("uniform", ratio=0.5), plan, output=small)
    except PfaError as error:
        pytest.skip(f"not cut: {error.what}")
    try:
        load(small)
    except ModelError as error:
        assert "PyTorch cannot train" in error.what
        pytest.skip(error.what)
    try:
        found = tune(small, data, out, replace(QUICK, epochs=1, augment=()), model)
    except (DataError, UsageError, ModelError) as error:
        assert re.search("too few to train|no output is a float|nothing to train", error.what), error
        pytest.skip(error.what)
    assert len(found.history) == 2
    assert all(np.isfinite(one.loss) for one in found.history)
    run(out, fed)


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "attention"])
def test_kernels_of_any_rank_are_trained(name, tmp_path):
    _tuned_at_all(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_is_trained_or_refused_by_name(name, tmp_path):
    _tuned_at_all(name, tmp_path)


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_teacher_with_other_outputs_is_refused(pruned, arrays, tmp_path):
    teacher = onnx.load(MODEL)
    last = teacher.graph.node[-1]
    name = last.output[0]
    last.output[0] = "before"
    teacher.graph.node.append(onnx.helper.make_node("Concat", ["before", "before"], [name], axis=1))
    teacher.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(teacher, tmp_path / "teacher.onnx")
    with pytest.raises(UsageError, match=rf"output '{name}' is \d+x10 of the model, and \d+x20 of the teacher"):
        tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", replace(QUICK, any_teacher=True), tmp_path / "teacher.onnx")


def test_a_weight_that_is_no_number_is_refused_before_anything_is_trained(pruned, arrays, tmp_path):
    proto = onnx.load(pruned)
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, tmp_path / "nan.onnx")
    with pytest.raises(ModelError, match="a weight is not finite") as caught:
        tune(tmp_path / "nan.onnx", arrays / "images.npy", tmp_path / "out.onnx")
    assert caught.value.at == weight.name
    assert [path.name for path in tmp_path.iterdir()] == ["nan.onnx"]


def test_a_model_that_onnxruntime_does_not_load_is_refused_before_anything_is_trained(pruned, arrays, tmp_path):
    proto = onnx.load(pruned)
    proto.ir_version = 1000
    onnx.save(proto, tmp_path / "new.onnx")
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        tune(tmp_path / "new.onnx", arrays / "images.npy", tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["new.onnx"]


def test_a_teacher_that_is_not_the_original_is_refused(pruned, arrays, tmp_path):
    other = tmp_path / "other.onnx"
    pfa_onnx.prune(MODEL, str(IMAGES), Method("kl"), output=other)
    with pytest.raises(ModelError, match="is not the model that this one was pruned from") as caught:
        tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", teacher=other)
    assert "--any-teacher" in caught.value.fix
    found = tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", replace(QUICK, any_teacher=True), teacher=other)
    assert found.best >= 1


def test_a_teacher_of_other_outputs_is_refused(pruned, arrays, tmp_path):
    proto = onnx.load(MODEL)
    proto.graph.output[0].name = "answers"
    proto.graph.node[-1].output[0] = "answers"
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="the teacher has the outputs answers"):
        tune(pruned, arrays / "images.npy", tmp_path / "out.onnx", teacher=tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("training", "teacher", "data", "error", "words"),
    [
        (QUICK, None, "images.npy", UsageError, "neither a teacher nor labels"),
        (replace(QUICK, labels=True), None, "images.npy", DataError, "the data has no labels"),
        (replace(QUICK, held=0.01), MODEL, "few.npy", DataError, "too few to train on"),
    ],
)
def test_what_is_missing_is_said(pruned, arrays, tmp_path, training, teacher, data, error, words):
    np.save(arrays / "few.npy", np.load(arrays / "images.npy")[:20])
    with pytest.raises(error, match=words):
        tune(pruned, arrays / data, tmp_path / "out.onnx", training, teacher=teacher)
    assert list(tmp_path.iterdir()) == []


def test_labels_that_do_not_name_the_classes_are_refused(pruned, arrays, tmp_path):
    data = dict(np.load(arrays / "labelled.npz"))
    data["labels"] = data["labels"] % 3 + 11
    np.savez(tmp_path / "odd.npz", **data)
    with pytest.raises(DataError, match="do not say which of the 10 classes"):
        tune(pruned, tmp_path / "odd.npz", tmp_path / "out.onnx", replace(QUICK, labels=True))


def test_the_output_may_be_neither_model(pruned, arrays):
    for taken in (pruned, MODEL):
        with pytest.raises(UsageError, match="is the model itself"):
            tune(pruned, arrays / "images.npy", taken)


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_reports_before_and_after(pruned, tmp_path, capsys):
    output, report = tmp_path / "out.onnx", tmp_path / "report.json"
    command = ["finetune", str(pruned), "--teacher", str(MODEL), "--data", str(IMAGES), "-o", str(output)]
    assert main([*command, "--epochs", "2", "--json", str(report), "-v"]) == 0
    shown = capsys.readouterr().out
    assert "576 samples" in shown
    assert "64 more are held back" in shown
    assert all(word in shown for word in ("before", "epoch 1", "epoch 2", "after", "teacher", f"wrote {output}"))
    assert f"next: pfa-onnx check {MODEL} {output} --data {IMAGES}" in shown
    content = json.loads(report.read_text())
    assert content["schema"] == 1
    assert len(content["history"]) == 3
    assert content["after"]["agreement"] > content["before"]["agreement"]
    assert main(["check", str(MODEL), str(output), "--data", str(IMAGES), "--no-latency", "-q"]) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "neither a teacher nor labels"),
        (["--labels", "--responses", "1"], "--responses is about a teacher"),
        (["--teacher", "MODEL", "--augment", "twirl"], "is neither auto nor none"),
        (["--teacher", "MODEL", "--epochs", "0"], "0 is not in the range"),
        (["--teacher", "nowhere.onnx"], "cannot read the model"),
    ],
)
def test_the_command_refuses(pruned, tmp_path, capsys, more, words):
    more = [str(MODEL) if word == "MODEL" else word for word in more]
    command = ["finetune", str(pruned), "--data", str(IMAGES), "-o", str(tmp_path / "out.onnx"), *more]
    assert main(command) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "fix:" in shown
    assert list(tmp_path.iterdir()) == []

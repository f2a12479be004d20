"""What several test files make: small zips, and stand-ins for data and for trainings."""

import contextlib
import io
import tempfile
import zipfile

import numpy as np
import pytest

from midas_lib import runs
from midas_lib.config import Network

MEMBERS = {
    "train/Sample001/img001-001.png": b"zero" * 50,
    "train/Sample062/img062-055.png": b"small z",
}


def make_zip(members, compression=zipfile.ZIP_DEFLATED):
    """A zip's bytes, of {member name: content}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@contextlib.contextmanager
def on_standin(folder):
    """What is loaded meanwhile is stand-in data, kept in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(folder))
        patch.setenv("STANDIN", "1")
        yield


def knowing(task: runs.Task) -> runs.Outcome:
    """The outcome of a network that gives the labels of all it is asked about, but for the first
    image of each set; its weights name its seed and classes."""

    def answers(examples):
        given = np.eye(task.classes, dtype=np.float32)[
            np.maximum(examples.labels, 0) % task.classes
        ]
        given = given * 0.4 + 0.6 / task.classes
        given[0] = np.roll(given[0], 1)
        return given

    history = {"loss": np.full(2, 2.3), "step": np.array([1, 2]), "gradient_norm": np.ones(2)}
    if task.held_out is not None:
        history |= {"val_accuracy": np.array([0.5, 0.99]), "val_loss": np.full(2, 2.3)}
    mark = float(task.settings.seed + 10 * task.classes)
    return runs.Outcome(
        history=history,
        probabilities=None if task.held_out is None else answers(task.held_out),
        views=answers(task.held_out) if task.views else None,
        tests={name: answers(examples) for name, examples in task.tests.items()},
        weights=[np.full(3, mark), np.full((4, task.classes), mark), np.zeros(task.classes)],
        seconds=1.0,
        reused=False,
    )


class Runner:
    """In place of `runs.run_all`: remembers each task that it is asked to train, with what it
    starts from, and trains nothing. stored: names of those that a run store has."""

    def __init__(self, outcome=knowing):
        self.outcome, self.trained, self.asked_fresh, self.stored = outcome, [], [], set()

    def __call__(self, tasks, *, jobs=None, fresh=False, folder=None, label=""):
        if fresh:
            self.asked_fresh += [task.name for task in tasks]
        for task in tasks:
            if task.start is not None and task.start.name not in self.stored:
                self([task.start])
            if task.name not in self.stored or fresh:
                self.stored.add(task.name)
                self.trained.append(task)
        return [self.outcome(task) for task in tasks]

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.trained]


def cnn(classes: int, size: int = 28, network=None):
    """`model.build_cnn`, its last layer's weights drawn like any other's: from zero, as they start,
    every answer would be the same."""
    import keras

    from midas_lib.model import build_cnn

    model = build_cnn(classes, size, network)
    kernel = model.get_layer("logits").kernel
    kernel.assign(keras.initializers.GlorotUniform()(kernel.shape))
    return model


NETWORKS = {
    "as it is": Network(),
    "mean": Network(pooling="mean"),
    "quarters": Network(pooling="quarters"),
    "not normalised": Network(channels=(8, 16), strides=(2, 2), normalised=False),
    "deeper": Network(channels=(8, 8, 16, 16, 32), strides=(2, 1, 2, 2, 1), kernel=3),
    "an even side": Network(channels=(8, 16), strides=(1, 1)),
}


def kind_of_network(name: str):
    """One of `NETWORKS`, of ten classes, as if trained: no bias, mean or variance is what it began
    as; with geometry."""
    from midas_lib.model import add_geometry

    rng, model = np.random.default_rng(0), cnn(10, network=NETWORKS[name])
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.weights]
        if len(shapes) == 4:
            layer.set_weights([rng.uniform(0.5, 1.5, shape) for shape in shapes])
        elif layer.name != "logits" and len(shapes) == 2:
            layer.set_weights([layer.get_weights()[0], rng.normal(size=shapes[1])])
    return add_geometry(model, rng.normal(size=(2, 10)), rng.normal(size=10))


def trained(model):
    """A Keras model as a `network.Network`, by way of its file."""
    from midas_lib import network

    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        return network.read(f"{folder}/model.keras")

"""Another judge of labels, cleanlab, on the folders of part 3."""

import sys

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

from bench.plan import THREADS, Plan
from midas_lib import config, data
from midas_lib.data import Examples

IMAGES, PARTS = 15_000, 3


def run(plan: Plan) -> dict:
    """Result "labels": cleanlab's version, how many pictures it was asked about, and which share of
    them it takes for mislabelled, by the cross-validated probabilities of a logistic regression on
    pixels' principal components and of our network, both taught the folders for labels."""
    try:
        import cleanlab.filter
    except ImportError:
        print("labels left out: pip install -c constraints.txt cleanlab", file=sys.stderr)
        return {}
    found = data.load_mislabelled(plan.data)
    order = np.random.default_rng(0).permutation(len(found.labels))
    rows = order[: min(plan.images or IMAGES, IMAGES)]
    examples = Examples(pictures=found.images[rows][..., None], labels=found.labels[rows])
    flagged = {
        learn.__name__: cleanlab.filter.find_label_issues(
            examples.labels, cross_validated(learn, examples), n_jobs=1
        ).mean()
        for learn in (regression, network)
    }
    return {"labels": {"cleanlab": cleanlab.__version__, "images": len(rows), "flagged": flagged}}


def cross_validated(learn, examples: Examples) -> np.ndarray:
    """Each example's class probabilities, (n, classes), by what `learn`, from some examples to the
    probabilities of others, was not shown."""
    found = np.zeros((len(examples.labels), examples.labels.max() + 1))
    parts = StratifiedKFold(PARTS, shuffle=True, random_state=0)
    for shown, asked in parts.split(examples.labels, examples.labels):
        found[asked] = learn(examples.take(shown), examples.take(asked))
    return found


def regression(shown: Examples, asked: Examples) -> np.ndarray:
    pixels = [one.pictures.reshape(len(one.labels), -1) / 255 for one in (shown, asked)]
    model = make_pipeline(PCA(50, random_state=0), LogisticRegression(max_iter=1000))
    return model.fit(pixels[0], shown.labels).predict_proba(pixels[1])


def network(shown: Examples, asked: Examples) -> np.ndarray:
    from midas_lib import train  # loads TensorFlow
    from midas_lib.studies import part3

    settings = config.vary(part3.NAIVE, training__epochs=1, threads=THREADS)
    return train.predict(train.fit(shown, 10, settings).model, asked)

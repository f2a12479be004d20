"""Loss functions: one function each, with the paper it comes from; `config.LOSSES` names them.

All take targets and logits, (n, classes) each, and return a scalar; a further parameter is the
setting of that name in `config.Training`. For those of complementary labels a target is the one-hot
vector of the class that the example is said *not* to have, each other class being as likely named.
"""

import keras
from keras import ops


def cross_entropy(targets, logits, smoothing: float = 0.0):
    """Mean cross-entropy, in nats, with targets (rows summing to 1) of which a share, in [0, 1), is
    spread over all classes (label smoothing, Szegedy et al. 2016, section 7)."""
    targets = targets * (1 - smoothing) + smoothing / logits.shape[-1]
    return ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True))


def forward(targets, logits, leak: float = 0.0):
    """Minus the log-likelihood of the complementary label (forward correction, Yu et al. 2018):
    classes other than the true one share 1 - leak evenly, and a share `leak` names the true one
    after all."""
    named = _probability(targets, logits)
    others = (1 - named) / (logits.shape[-1] - 1)
    return -ops.mean(ops.log(leak * named + (1 - leak) * others + 1e-7))


def scl_nl(targets, logits):
    """-log(1 - p) of the named class (Chou et al. 2020): `forward` without leak, but a constant."""
    return -ops.mean(ops.log(1 - _probability(targets, logits) + 1e-7))


def scl_exp(targets, logits):
    """exp(p) of the named class (Chou et al. 2020)."""
    return ops.mean(ops.exp(_probability(targets, logits)))


def pairwise_comparison(targets, logits):
    """Sum over the other classes of the sigmoid loss of their lead over the named one (PC, Ishida
    et al. 2017)."""
    lead = logits - ops.sum(targets * logits, -1, keepdims=True)
    return ops.mean(ops.sum((1 - targets) * ops.sigmoid(-lead), -1))


def proden(targets, logits, leak: float = 0.0, sharpening: float = 1.0):
    """Progressive identification of the true class (PRODEN, Lv et al. 2020) with consistency
    between two augmented views (after Wu et al. 2022).

    logits: (2n, classes), the second views' below the first ones'. Self-training: both views'
    cross-entropy against one soft target, through which no gradient flows: the mean of their
    predictions, times the likelihood of the complementary label under each class (a share `leak`
    of the labels is true), to the power `sharpening`, normalised. A row of zeros in `targets` is a
    picture without a label. With equal views and no sharpening it has `forward`'s gradient."""
    one, other = ops.split(ops.softmax(logits), 2)
    likelihood = leak * targets + (1 - leak) * (1 - targets) / (logits.shape[-1] - 1)
    belief = ((one + other) / 2 * likelihood) ** sharpening + 1e-12
    belief = ops.stop_gradient(belief / ops.sum(belief, -1, keepdims=True))
    return cross_entropy(ops.concatenate([belief, belief]), logits)


def imbalance(logits):
    """How far a batch's mean probabilities are from an even share for each class: the divergence
    of the one from the other, in nats (Tanaka et al. 2018). It keeps self-training from calling
    everything one class."""
    mean = ops.mean(ops.softmax(logits), 0)
    return -ops.mean(ops.log(logits.shape[-1] * mean + 1e-7))


def weighted(targets, logits):
    """Cross-entropy of the named class under a softmax of 1 - p, that term weighted up where p is
    small (L-W, Gao & Zhang 2021)."""
    away = 1 - ops.softmax(logits)
    logs = ops.sum(targets * ops.log_softmax(away), -1)
    weight = ops.sum(targets * away, -1) / (logits.shape[-1] - 1)
    return -ops.mean((1 + weight) * logs)


def non_negative(targets, logits):
    """The unbiased risk, each class's part of it held at zero or above (NN, Ishida et al. 2019)."""
    return ops.sum(ops.maximum(_partial_risks(targets, logits), 0))


def gradient_ascent(targets, logits):
    """The unbiased risk; where a class's part of it is negative, those parts turned over instead
    (GA, Ishida et al. 2019)."""
    risks = _partial_risks(targets, logits)
    return ops.where(ops.min(risks) < 0, -ops.sum(ops.minimum(risks, 0)), ops.sum(risks))


def _partial_risks(targets, logits):
    """Unbiased estimate of each class's share of the cross-entropy risk, (classes,) (Ishida et al.
    2019, theorem 1)."""
    losses = -ops.log_softmax(logits)
    return ops.mean(losses - (logits.shape[-1] - 1) * targets * losses, 0)


def _probability(targets, logits):
    return ops.sum(targets * ops.softmax(logits), -1)

"""A peer: the PyTorch examples' "Basic MNIST Example", written from its published settings.

https://github.com/pytorch/examples/tree/main/mnist: convolutions of 32 and 64 channels, one
pooling, dropout of 0.25, 128 units, dropout of 0.5, Adadelta at rate 1, times 0.7 each epoch,
batches of 64, 14 epochs, pixels brought to mean 0 and deviation 1. It brings each picture to its
input when it is wanted; here that is done once for all of them, which makes it faster.
"""

import torch
from torch import nn

VERSION = f"torch {torch.__version__}"
EPOCHS, BATCH = 14, 64
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels, as the example has them


def race(train, test, clock, seed: int) -> None:
    """Train against the clock; train, test: (pictures uint8 (n, 28, 28), labels (n,))."""
    torch.manual_seed(seed)
    unseen, truth = _normal(test[0]), torch.from_numpy(test[1])
    clock.start()
    pictures, labels = _normal(train[0]), torch.from_numpy(train[1])
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)

    def accuracy():
        model.eval()
        with torch.no_grad():
            answers = torch.cat([model(part).argmax(1) for part in unseen.split(1000)])
        model.train()
        return (answers == truth).float().mean()

    done, total = 0, EPOCHS * len(labels)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pictures[batch]), labels[batch]).backward()
            optimizer.step()
            done += len(batch)
            clock.look(done, accuracy, last=done == total)
        schedule.step()


def _normal(pictures):
    return (torch.from_numpy(pictures)[:, None] / 255 - MEAN) / DEVIATION

"""A peer: the Keras documentation's "Simple MNIST convnet", written from its published settings.

https://keras.io/examples/vision/mnist_convnet/: convolutions of 32 and 64 channels, each pooled,
dropout of 0.5, Adam at Keras' default rate, batches of 128, 15 epochs, a tenth of the training
images held out. It measures the held-out tenth after every epoch; here that is left out, which
makes it faster.
"""

import keras
import numpy as np
from keras import layers

VERSION = f"keras {keras.__version__}"
EPOCHS, BATCH = 15, 128


def race(train, test, clock, seed: int) -> None:
    """Train against the clock; train, test: (pictures uint8 (n, 28, 28), labels (n,))."""
    keras.utils.set_random_seed(seed)
    unseen = _scaled(test[0])
    clock.start()
    used = len(train[0]) * 9 // 10
    pictures = _scaled(train[0][:used])
    targets = keras.utils.to_categorical(train[1][:used], 10)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    steps = -(-used // BATCH)
    done = 0

    def accuracy():
        parts = [model.predict_on_batch(unseen[i : i + 1000]) for i in range(0, len(unseen), 1000)]
        return np.mean(np.concatenate(parts).argmax(1) == test[1])

    def look(batch, logs):
        nonlocal done
        done += 1
        clock.look(done * BATCH, accuracy, last=done == steps * EPOCHS)

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(pictures, targets, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[callback])


def _scaled(pictures):
    return pictures[..., None].astype("float32") / 255

"""Handwriting experiments: characters, transfer to MNIST, and learning from wrong labels.

Importing the package is cheap: TensorFlow is loaded only by the modules that train or predict.
"""

import logging
import os

# Read when TensorFlow meets a GPU: runs may share one, so none takes all of its memory at once.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# Other libraries' logs are none of the user's business, and the user's backend none of ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
logging.getLogger("tensorflow").addFilter(lambda record: record.levelno >= logging.ERROR)
# Nor is what a killed study's workers left to Python's own tracker, which clears it away.
os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
# Convolutions as oneDNN does them, on processors too where TensorFlow would not choose it: a fifth
# faster there, and the same sums on more machines.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ["KERAS_BACKEND"] = "tensorflow"

__version__ = "1.0.0"

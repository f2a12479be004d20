"""Work in processes of its own, so that what is timed is alone, and what fails ends alone."""

import importlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor


def call(module: str, function: str, *arguments, environment: dict | None = None):
    """The result of a module's function called in a new process. environment: variables set there
    before the module is imported. Raises what the function raises, and `BrokenProcessPool` when
    the process dies."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_call, module, function, arguments, environment or {}).result()


def _call(module, function, arguments, environment):
    os.environ.update(environment)
    return getattr(importlib.import_module(module), function)(*arguments)

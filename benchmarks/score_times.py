"""Seconds of every transferability score, next to public implementations, on the same features.

    OMP_NUM_THREADS=1 python benchmarks/score_times.py [--examples 5000] [--classes 10 100]
        [--released FOLDER] [--repeat 3] [--only SCORE ...] [--mapped FOLDER]

Makes features (N, 768), float32, of N examples whose classes are clouds in 64 dimensions, sent through a
random layer with a rectifier, and calls every score on them. Beside it, where there is one:

- transformer-ranker from PyPI (LogME, shrinkage H-score, 3 nearest neighbours), where it is installed;
- the authors' released code below ``--released``: LogME/ (thuml/LogME), parc/ (dbolya/parc), SFDA/
  (TencentARC/SFDA), TransRate/ (Long-Kai/TransRate), stable_transfer/ (of google-research: gbc.py), each
  a checkout. Modules of theirs that only load data sets or image models are not needed and are replaced
  by empty ones; TensorFlow, which gbc.py calls, by the same operations of numpy.

With --mapped the features lie in a file below the folder, are mapped into memory and not read whole.

Ours and theirs take turns, ``--repeat`` times, and medians are shown; what takes longer than 20 s is run
once. "Peak" is the most that numpy's arrays held at a time beyond the features while ours ran
(workspaces inside of LAPACK are not counted). Seconds are of the processor (all threads of this process,
user and system), which other programs at work hardly change; run it with one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import platform
import statistics
import sys
import time
import tracemalloc
import types
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.choose import scores
from taskloom.choose.pca import reduce

WIDTH, LATENT, SOURCES = 768, 64, 20
LONG = 20.0  # seconds after which nothing is run twice


def make(n: int, classes: int, seed: int = 0) -> dict[str, Any]:
    """Features, labels, a source's probabilities, a reference's and the source's features."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    latent = rng.normal(size=(n, LATENT)) + 0.3 * rng.normal(size=(classes, LATENT))[labels]
    layer = rng.normal(size=(LATENT, WIDTH)) / np.sqrt(LATENT)
    features = np.maximum(latent @ layer, 0) + 0.1 * rng.normal(size=(n, WIDTH))
    logits = latent @ rng.normal(size=(LATENT, SOURCES)) / 4
    theta = np.exp(logits - logits.max(1, keepdims=True))
    other = np.maximum(latent @ layer[:, ::-1], 0) + 0.3 * rng.normal(size=(n, WIDTH))
    return {
        "features": features.astype(np.float32),
        "labels": labels,
        "theta": theta / theta.sum(1, keepdims=True),
        "reference": other.astype(np.float32),
        "target": latent @ rng.normal(size=LATENT) + rng.normal(size=n),
    }


def ours(given: dict[str, Any]) -> dict[str, Callable[[], float]]:
    x, y, theta = given["features"], given["labels"], given["theta"]
    reference, target = given["reference"], given["target"]
    z = theta.argmax(1)
    return {
        "nce": lambda: scores.nce(x, y, z),
        "leep": lambda: scores.leep(x, y, theta),
        "nleep (full)": lambda: scores.nleep(x, y),
        "nleep (diag)": lambda: scores.nleep(x, y, covariance="diag"),
        "logme (exact=False)": lambda: scores.logme(x, y, exact=False),
        "logme": lambda: scores.logme(x, y),
        "logme_regression": lambda: scores.logme_regression(x, target),
        "h_score": lambda: scores.h_score(x, y),
        "h_score (regularised)": lambda: scores.h_score(x, y, regularised=True),
        "transrate": lambda: scores.transrate(x, y),
        "gbc": lambda: scores.gbc(x, y),
        "gbc (released=True, of 64 components)": lambda: scores.gbc(
            given["components"], y, components=None, released=True
        ),
        "parc": lambda: scores.parc(x, y),
        "rsa": lambda: scores.rsa(x, y, reference),
        "sfda": lambda: scores.sfda(x, y),
        "linear_probe": lambda: scores.linear_probe(x, y),
        "knn": lambda: scores.knn(x, y),
        "knn (k=3)": lambda: scores.knn(x, y, k=3),
        "ridge_probe": lambda: scores.ridge_probe(x, target),
        "domain_divergence (mmd)": lambda: scores.domain_divergence(x, y, x, reference),
        "domain_divergence (frechet)": lambda: scores.domain_divergence(
            x, y, x, reference, measure="frechet"
        ),
        "textemb": lambda: scores.textemb(x, y, x, reference),
    }


def peers(given: dict[str, Any]) -> dict[str, tuple[str, Callable[[], float]]]:
    """Score -> transformer-ranker's estimator of it."""
    if importlib.util.find_spec("transformer_ranker") is None:
        return {}
    import torch
    from transformer_ranker import estimators

    x, y = torch.from_numpy(given["features"]), torch.from_numpy(given["labels"])
    name = "transformer-ranker"
    return {
        "logme (exact=False)": (name, lambda: estimators.LogME().fit(x, y)),
        "h_score (regularised)": (name, lambda: estimators.HScore().fit(x, y)),
        "knn (k=3)": (name, lambda: estimators.NearestNeighbors(k=3).fit(x, y)),
    }


def released(folder: Path, given: dict[str, Any]) -> dict[str, tuple[str, Callable[[], float]]]:
    """Score -> what its authors released, where it lies below the folder."""
    x, y, theta = given["features"], given["labels"], given["theta"]
    classes = int(y.max()) + 1
    found: dict[str, tuple[str, Callable[[], float]]] = {}
    if (folder / "LogME").is_dir():
        logme, leep = load(folder / "LogME/LogME.py"), load(folder / "LogME/LEEP.py")
        found["logme (exact=False)"] = ("thuml/LogME", lambda: logme.LogME().fit(x, y))
        found["leep"] = ("thuml/LogME", lambda: leep.LEEP(theta, y))
    if (folder / "parc").is_dir():
        constants = types.SimpleNamespace(num_classes={"target": classes, "source": SOURCES})
        parc = load(folder / "parc/methods.py", constants=constants, datasets=None)
        more = ("source", "target", "", None)
        for name, method in (
            ("parc", parc.PARC(n_dims=32)),
            ("h_score", parc.HScore(use_published_implementation=True)),
            ("nce", parc.NegativeCrossEntropy()),
            ("knn", parc.kNN(k=1)),
        ):
            found[name] = ("dbolya/parc", lambda method=method: method(x.astype(float), theta, y, *more))
    if (folder / "SFDA").is_dir():
        utils = load(folder / "SFDA/utils.py", **{"models.group1": None, "models": None})
        sfda = load(folder / "SFDA/metrics.py", utils=utils)
        found["sfda"] = ("TencentARC/SFDA", lambda: sfda.SFDA_Score(x.astype(float), y))
        found["nleep (full)"] = ("TencentARC/SFDA", lambda: np.log(sfda.NLEEP(x.astype(float), y)))
    if (folder / "stable_transfer").is_dir():
        experiment = types.SimpleNamespace(load_or_compute=lambda function: function)
        gbc = load(
            folder / "stable_transfer/gbc.py",
            tensorflow=numpy_as_tensorflow(),
            stable_transfer=types.ModuleType("stable_transfer"),
            **{"stable_transfer.transferability": types.SimpleNamespace(transfer_experiment=experiment)},
        )
        found["gbc (released=True, of 64 components)"] = (
            "google-research",
            lambda: gbc.get_gbc_score(given["components"], y, "spherical"),
        )
    if (folder / "TransRate").is_dir():
        rate = load(folder / "TransRate/generate_transrate/transrate.py")
        found["transrate"] = ("Long-Kai/TransRate", lambda: transrate(rate, x.astype(float), y))
    return found


def numpy_as_tensorflow() -> types.ModuleType:
    """The operations of TensorFlow that gbc.py calls, by numpy."""
    module: Any = types.ModuleType("tensorflow")
    module.math = types.SimpleNamespace(log=np.log, reduce_variance=np.var)
    module.reduce_sum, module.reduce_mean = np.sum, np.mean
    module.exp, module.maximum, module.equal = np.exp, np.maximum, np.equal
    module.where = np.flatnonzero
    module.gather_nd = lambda rows, at: rows[at]
    module.unique = lambda values: np.unique(values, return_inverse=True)
    return module


def transrate(module: Any, x: np.ndarray, y: np.ndarray) -> float:
    """The score from the eigenvalues that the released code stores."""
    whole, _, parts, _, sizes = module.pre_transrate(x - x.mean(0), y, normalize=False)
    rates = 0.5 * np.log1p(np.stack([whole, *parts]) / 1e-4).sum(1)
    return float(rates[0] - np.asarray(sizes) / len(y) @ rates[1:])


def load(path: Path, **stand_ins: Any) -> Any:
    """Import a file while some modules are replaced; a stand-in of None is an empty module."""
    before = {name: sys.modules.get(name) for name in stand_ins}
    for name, stand_in in stand_ins.items():
        sys.modules[name] = stand_in or types.ModuleType(name)
    try:
        spec = importlib.util.spec_from_file_location(f"released_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
    return module


def timed(call: Callable[[], float]) -> tuple[float, float]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        begun = time.process_time()
        value = float(call())
        return time.process_time() - begun, value


def peak(call: Callable[[], float]) -> float:
    """Most megabytes that numpy's arrays held at a time during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def measure(calls: list[Callable[[], float]], repeat: int) -> list[tuple[float, float]]:
    """Median seconds and the value of each, taking turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    values = [float("nan")] * len(calls)
    for turn in range(repeat):
        for place, call in enumerate(calls):
            if turn and seconds[place][0] > LONG:
                continue
            taken, values[place] = timed(call)
            seconds[place].append(taken)
    return [(statistics.median(each), value) for each, value in zip(seconds, values, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--released", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--skip", nargs="+", default=[])
    parser.add_argument("--skip-released", nargs="+", default=[])
    parser.add_argument("--mapped", type=Path)
    words = parser.parse_args()
    libraries = ["numpy", "scipy", "scikit-learn", "torch"]
    said = ", ".join(f"{name} {version(name)}" for name in libraries)
    print(f"{words.examples} examples, {WIDTH} features, float32; {said}; {platform.machine()},")
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}\n")
    print("| score | classes | seconds | peak MB | beside it | its seconds | times ours | value | its |")
    print("|---|---|---|---|---|---|---|---|---|")
    for classes in words.classes:
        given = make(words.examples, classes)
        if words.mapped:
            words.mapped.mkdir(parents=True, exist_ok=True)
            np.save(words.mapped / "features.npy", given["features"])
            given["features"] = np.load(words.mapped / "features.npy", mmap_mode="r")
        given["components"] = reduce(np.asarray(given["features"], dtype=float), 64)
        mine = ours(given)
        few = {**given, **{key: given[key][:500] for key in ("features", "labels")}}
        timed(ours(few)["knn"])  # the first products of a process load libraries
        others: dict[str, list[tuple[str, Callable[[], float]]]] = {}
        sources = [peers(given)]
        if words.released:
            sources.append(released(words.released, given))
        for source in sources:
            for name, found in source.items():
                if name.split()[0] not in words.skip_released:
                    others.setdefault(name, []).append(found)
        for name, call in mine.items():
            wanted = name in words.only or name.split()[0] in words.only if words.only else True
            if not wanted or name in words.skip:
                continue
            beside = others.get(name, [])
            (own, value), *rest = measure([call, *(each for _, each in beside)], words.repeat)
            row = [name, str(classes), f"{own:.3g}", f"{peak(call):.0f}"]
            if not rest:
                print("| " + " | ".join([*row, "", "", "", f"{value:.6f}", ""]) + " |", flush=True)
            for (who, _), (theirs, other) in zip(beside, rest, strict=True):
                more = [who, f"{theirs:.3g}", f"{theirs / own:.1f}", f"{value:.6f}", f"{other:.6f}"]
                print("| " + " | ".join([*row, *more]) + " |", flush=True)


if __name__ == "__main__":
    main()

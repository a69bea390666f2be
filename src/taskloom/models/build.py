"""Small randomly initialised encoders, for plans that must not download anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from taskloom.errors import PlanError
from taskloom.models.quiet import quiet_transformers
from taskloom.models.settings import FILE, EncoderSettings
from taskloom.registry import Entry
from taskloom.store.atomic import atomic_directory, write_json


def tiny_vit(
    *,
    image_size: int = 8,
    patch_size: int = 2,
    channels: int = 1,
    hidden: int = 64,
    layers: int = 3,
    heads: int = 4,
    intermediate: int = 128,
    spread: float = 0.12,
    pooling: str = "mean",
    image_scale: float = 1.0,
    image_mean: tuple[float, ...] = (0.0,),
    image_std: tuple[float, ...] = (1.0,),
) -> tuple[Any, EncoderSettings]:
    """Return an untrained vision transformer and its settings.

    Parameters
    ----------
    image_size, patch_size
        Height and width of image and patch, in pixels.
    channels, hidden, layers, heads, intermediate
        Sizes of the transformer; ``hidden`` is the length of a feature vector.
    spread
        Standard deviation of the random weights; the 0.02 of large models trains slowly at this
        width.
    pooling, image_scale, image_mean, image_std
        See `EncoderSettings`.
    """
    from transformers import ViTConfig, ViTModel

    if image_size % patch_size or hidden % heads:
        raise PlanError(
            f"init_encoder: expected image_size divisible by patch_size and hidden by heads, "
            f"found {image_size} / {patch_size} and {hidden} / {heads}"
        )
    config = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        num_channels=channels,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        initializer_range=spread,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    settings = EncoderSettings.model_validate(
        {
            "modality": "image",
            "pooling": pooling,
            "image_scale": image_scale,
            "image_mean": image_mean,
            "image_std": image_std,
        }
    )
    return ViTModel(config, add_pooling_layer=False), settings


def init_encoder(
    spec: Mapping[str, Any], out_dir: str | Path, *, seed: int = 0, overwrite: bool = False
) -> Path:
    """Write a directory with an untrained encoder that `Encoder.load` reads.

    Parameters
    ----------
    spec
        ``{"kind": "vit", ...}`` with options of `tiny_vit`.
    out_dir
        Directory to make.
    seed
        Of the random weights; torch's global generator is left as it was.
    overwrite
        Replace what is there.

    Raises
    ------
    PlanError
        An unknown kind or option (with the nearest right one), or sizes that do not divide.
    OutputError
        The directory exists or cannot be written.
    MissingExtra
        transformers is not installed.
    """
    options = dict(spec)
    kind = options.pop("kind", "vit")
    if kind != "vit":
        raise PlanError(f"init_encoder: expected kind 'vit', found {kind!r}")
    options = Entry("encoder", "init_encoder", tiny_vit).validate(options)
    with (
        quiet_transformers(),
        torch.random.fork_rng(devices=[]),
        atomic_directory(out_dir, overwrite=overwrite) as folder,
    ):
        torch.manual_seed(seed)
        module, settings = tiny_vit(**options)
        module.save_pretrained(folder)
        write_json(folder / FILE, settings.model_dump(mode="json"))
    return Path(out_dir)

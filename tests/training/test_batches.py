"""Batches: every example once, the same bytes for the same arguments, prepared as in serving."""

from pathlib import Path

import numpy as np
import torch

from training.batches import Batches, augmented
from training.config import AugmentConfig, load_config
from training.preparation import prepare


def test_an_epoch_has_every_example_once_and_can_start_anywhere(image_recipe: Path) -> None:
    data = prepare(load_config(image_recipe), "")
    batches = Batches(data.parts.fit, data.preprocessor, 10)
    plain = AugmentConfig()
    epoch = list(batches.shuffled(1, 0, 0, plain))
    assert len(epoch) == len(batches)
    everything = torch.cat([batch.inputs[0] for batch in epoch]).sum(dim=(1, 2, 3)).sort().values
    stored = torch.cat([batch.inputs[0] for batch in batches.in_order()]).sum(dim=(1, 2, 3)).sort().values
    assert torch.equal(everything, stored)
    augment = AugmentConfig(crop_padding=2, flip=True)
    whole, rest = list(batches.shuffled(1, 4, 0, augment)), list(batches.shuffled(1, 4, 3, augment))
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(whole[3:], rest, strict=True))
    other = next(batches.shuffled(1, 5, 0, augment))
    assert not torch.equal(other.inputs[0], whole[0].inputs[0])


def test_texts_of_similar_length_share_a_batch(text_recipe: Path) -> None:
    data = prepare(load_config(text_recipe), "")
    batches = Batches(data.parts.fit, data.preprocessor, 8)
    epoch = list(batches.shuffled(1, 0, 0, AugmentConfig()))
    assert sum(len(batch.targets) for batch in epoch) == len(data.parts.fit)
    assert {batch.inputs[0].shape[1] for batch in epoch} == {8, 16}
    for batch in epoch:
        ids, mask = batch.inputs
        assert torch.equal(ids == 0, mask == 0)


def test_augmentation_only_moves_and_mirrors_pixels() -> None:
    images = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)
    crops = augmented(images, AugmentConfig(crop_padding=1), np.random.default_rng(0))
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1)])
    for image, crop in zip(padded, crops, strict=True):
        assert any((image[t : t + 5, s : s + 4] == crop).all() for t in range(3) for s in range(3))
    mirrored = augmented(images, AugmentConfig(flip=True), np.random.default_rng(1))
    for image, result in zip(images, mirrored, strict=True):
        assert (result == image).all() or (result == image[:, ::-1]).all()
    assert images.flags.writeable
    assert (images == np.arange(40, dtype=np.uint8).reshape(2, 5, 4)).all()

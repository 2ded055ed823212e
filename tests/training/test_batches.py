"""Batches: every example once, the same bytes for the same arguments, prepared as in serving."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.preprocess import ImagePreprocessor
from training.batches import Batch, Batches
from training.config import AugmentConfig, ResizedCropConfig, load_config
from training.data import DataError, Examples, ImageConfig, LazyImages
from training.data.image_source import ImageFilesSource, hash_images
from training.preparation import prepare

AUGMENT = AugmentConfig(crop_padding=2, flip=True, cutout=3)


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches are equal, bit for bit, once they are on the device."""
    one, other = one.on("cpu"), other.on("cpu")
    tensors = zip((*one.inputs, one.targets), (*other.inputs, other.targets), strict=True)
    return all(torch.equal(a, b) for a, b in tensors)


@pytest.fixture
def photographs(tmp_path: Path) -> LazyImages:
    """23 images of many sizes in files, needed as 16 x 16 pixels out of 20."""
    generator = np.random.default_rng(4)
    for index in range(23):
        width, height = generator.integers(12, 60, size=2).tolist()
        pixels = generator.integers(0, 256, size=(6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(tmp_path / f"{index:02}.png")
    source = ImageFilesSource(tmp_path, tuple(sorted(path.name for path in tmp_path.iterdir())))
    image = ImageConfig(mode="RGB", height=16, width=16, resize_shorter=20)
    return LazyImages(source, np.arange(23), hash_images(source), image)


def batches_of(images: LazyImages) -> Batches:
    examples = Examples(images, np.arange(len(images), dtype=np.int64))
    return Batches(examples, ImagePreprocessor(images.image.preprocessing((0.4,) * 3, (0.2,) * 3)), 5)


def test_an_epoch_has_every_example_once_and_can_start_anywhere(image_recipe: Path) -> None:
    data = prepare(load_config(image_recipe), "")
    batches = Batches(data.parts.fit, data.preprocessor, 10)
    epoch = [batch.on("cpu") for batch in batches.shuffled(1, 0, 0, AugmentConfig())]
    assert len(epoch) == len(batches)
    everything = torch.cat([batch.inputs[0] for batch in epoch]).sum(dim=(1, 2, 3)).sort().values
    stored = torch.cat([batch.inputs[0] for batch in batches.in_order()]).sum(dim=(1, 2, 3)).sort().values
    assert torch.equal(everything, stored)
    whole, rest = list(batches.shuffled(1, 4, 0, AUGMENT)), list(batches.shuffled(1, 4, 3, AUGMENT))
    assert all(same(a, b) for a, b in zip(whole[3:], rest, strict=True))
    assert not same(next(batches.shuffled(1, 5, 0, AUGMENT)), whole[0])
    assert not same(next(batches.shuffled(2, 4, 0, AUGMENT)), whole[0])


def test_stored_order_is_what_serving_sees(image_recipe: Path) -> None:
    data = prepare(load_config(image_recipe), "")
    assert isinstance(data.preprocessor, ImagePreprocessor)
    batches = Batches(data.parts.select, data.preprocessor, 7)
    images = torch.cat([batch.inputs[0] for batch in batches.in_order()])
    assert np.array_equal(images.numpy(), data.preprocessor.normalize(np.asarray(data.parts.select.inputs)))
    targets = torch.cat([batch.targets for batch in batches.in_order()])
    assert np.array_equal(targets.numpy(), data.parts.select.targets)
    assert next(batches.in_order()).inputs[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("world", [2, 3])
def test_shards_are_the_rows_of_the_whole_batch_with_its_changes(image_recipe: Path, world: int) -> None:
    data = prepare(load_config(image_recipe), "")
    batches = Batches(data.parts.fit, data.preprocessor, 10)
    for whole in batches.shuffled(1, 2, 0, AUGMENT):
        ready = whole.on("cpu")
        for rank in range(world):
            shard = whole.shard(rank, world)
            assert torch.equal(shard.on("cpu").inputs[0], ready.inputs[0][rank::world])
            assert torch.equal(shard.targets, ready.targets[rank::world])
            assert len(shard) == len(shard.targets)
            piece = shard.shard(1, 2)  # as gradient accumulation cuts it
            assert torch.equal(piece.on("cpu").inputs[0], ready.inputs[0][rank + world :: 2 * world])


def test_texts_of_similar_length_share_a_batch(text_recipe: Path) -> None:
    data = prepare(load_config(text_recipe), "")
    batches = Batches(data.parts.fit, data.preprocessor, 8)
    epoch = list(batches.shuffled(1, 0, 0, AugmentConfig()))
    assert sum(len(batch) for batch in epoch) == len(data.parts.fit)
    assert {batch.inputs[0].shape[1] for batch in epoch} == {8, 16}
    for batch in epoch:
        ids, mask = batch.inputs
        assert torch.equal(ids == 0, mask == 0)
        assert torch.equal(batch.shard(1, 2).inputs[0], ids[1::2])
        assert same(batch.on("cpu"), batch)


def test_images_in_files_give_the_batches_of_images_in_memory(photographs: LazyImages) -> None:
    lazy = batches_of(photographs)
    memory = Batches(Examples(np.asarray(photographs), lazy.examples.targets), lazy.preprocessor, 5)
    epochs = [list(batches.shuffled(3, 1, 0, AUGMENT)) for batches in (lazy, memory, lazy)]
    assert sorted(int(target) for batch in epochs[0] for target in batch.targets) == list(range(23))
    for one, other, again in zip(*epochs, strict=True):
        assert same(one, other)
        assert same(one, again)
    assert all(same(one, other) for one, other in zip(lazy.in_order(), memory.in_order(), strict=True))


def test_only_the_own_rows_are_decoded(photographs: LazyImages) -> None:
    batches = batches_of(photographs)
    for whole, own in zip(
        batches.shuffled(3, 1, 0, AUGMENT), batches.shuffled(3, 1, 0, AUGMENT, rank=1, world=2), strict=True
    ):
        assert same(own.shard(1, 2), whole.shard(1, 2))
        assert not own.shard(0, 2).inputs[0].any()


def test_resized_crops_are_cut_from_the_larger_canvas(photographs: LazyImages) -> None:
    batch = next(batches_of(photographs).shuffled(3, 1, 0, AugmentConfig(resized_crop=ResizedCropConfig())))
    assert batch.inputs[0].shape == (5, 20, 20, 3)
    assert np.array_equal(batch.inputs[0].numpy(), photographs.canvas()[batch.targets.numpy()])
    assert batch.on("cpu").inputs[0].shape == (5, 3, 16, 16)


def test_an_unreadable_image_stops_the_epoch_by_name(photographs: LazyImages) -> None:
    bad = Path(photographs.source.name(7))
    bad.write_bytes(bad.read_bytes()[:60])
    batches = batches_of(photographs).in_order()
    assert next(batches).targets.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match=rf"{bad} cannot be used: "):
        next(batches)


def test_texts_do_not_go_with_a_preprocessor_of_images(photographs: LazyImages) -> None:
    texts = Batches(Examples(("a", "b"), np.zeros(2, dtype=np.int64)), batches_of(photographs).preprocessor, 2)
    with pytest.raises(TypeError, match="ImagePreprocessor does not go with these examples"):
        next(texts.in_order())

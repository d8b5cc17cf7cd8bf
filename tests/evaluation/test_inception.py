"""Inception-v3 of the FID: the function of an independent one, the published names, and only the published file."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from alphabar.base import storage
from alphabar.base.errors import CheckpointError, ConfigError, DataError, KeyMismatch
from alphabar.evaluation.features import inception
from alphabar.evaluation.features.inception import Inception, InceptionV3, open_inception, prepare
from oracles.inception import inception as oracle
from oracles.inception import resize, shapes

COUNTER = ".num_batches_tracked"


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights that keep activations of order one, with statistics that matter."""
    generator = torch.Generator().manual_seed(1)
    made = {}
    for name, shape in shapes().items():
        normal = torch.randn(shape, generator=generator)
        if name.endswith(("conv.weight", "fc.weight")):
            made[name] = normal * (2 / normal[0].numel()) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            made[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            made[name] = 0.2 * normal
    return made


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    """A file as the ports of the FID share it: with counters."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    names = {name.removesuffix(".weight") for name in state if name.endswith("bn.weight")}
    torch.save(state | {name + COUNTER: torch.tensor(7) for name in names}, path)
    return path


@pytest.fixture(scope="module")
def features(file) -> Inception:
    return open_inception(file)


# --- the network ------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_the_published_weights():
    net = InceptionV3()
    given = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert {name: shape for name, shape in given.items() if not name.endswith(COUNTER)} == shapes()
    assert len(given) == 94 * 6 + 2  # the published file has 566 entries
    # some of them by hand, against a slip in the table
    assert given["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert given["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert given["Mixed_6c.branch7x7dbl_5.conv.weight"] == (192, 160, 1, 7)
    assert given["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert given["Mixed_7b.branch1x1.bn.running_var"] == (320,)
    assert given["fc.weight"] == (1008, 2048)


def test_the_number_of_parameters_is_the_known_one():
    # torchvision states 27,161,264 for 1000 classes with the auxiliary classifier
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 769 * 1000
    assert sum(p.numel() for p in InceptionV3().parameters()) == 27_161_264 - auxiliary + 8 * 2049 == 23_850_960


def test_the_network_is_that_function_in_float64(state):
    net = InceptionV3().double().eval()
    net.load_state_dict(state, strict=False)
    x = 2 * torch.rand(2, 3, 139, 171, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    with torch.no_grad():
        values, logits = net(x)
    wanted, wanted_logits = oracle(state, x)
    torch.testing.assert_close(values, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-9, atol=1e-9)
    assert values.std() > 0.1 and values.min() >= 0


def test_from_bytes_to_features_in_float32(state, features):
    images = pixels(2, 3, 45, 32)
    resized = np.stack([resize(image.numpy() / 255) for image in images])
    wanted, wanted_logits = oracle(state, torch.from_numpy(2 * resized - 1))
    values, logits = features(images)
    wanted_logits = wanted_logits - state["fc.bias"]  # as in the Inception Score of the literature
    assert values.dtype == logits.dtype == torch.float32
    for given, right in ((values, wanted), (logits, wanted_logits)):
        assert given.shape == right.shape
        assert (given - right).abs().max() < 1e-5 * right.abs().max()


# --- what the network sees --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (32, 48), (298, 300), (299, 299), (401, 610)])
def test_the_resize_is_that_of_an_independent_implementation(size):
    images = pixels(2, 3, *size)
    # positions are float32: wrong by up to half an ulp of the side, on each axis, where neighbours differ by up to 2
    close = 1e-6 + 4 * max(size) * 2**-23
    for seen, image in zip(prepare(images), images, strict=True):
        np.testing.assert_allclose(seen.numpy(), 2 * resize(image.numpy() / 255) - 1, rtol=0, atol=close)


def test_the_resize_samples_at_half_pixels():
    ramp = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    row = prepare(ramp)[0, 0, 0]
    at = ((torch.arange(299) + 0.5) * 2 / 299 - 0.5).clamp(0, 1)
    torch.testing.assert_close(row, 2 * at - 1, rtol=0, atol=1e-6)
    torch.testing.assert_close(row, -row.flip(0), rtol=0, atol=1e-6)


def test_images_of_the_right_size_are_only_scaled():
    images = pixels(1, 3, 299, 299)
    assert torch.equal(prepare(images), 2 * (images.float() / 255) - 1)
    assert torch.equal(prepare(torch.zeros(1, 1, 299, 299, dtype=torch.uint8)), torch.full((1, 3, 299, 299), -1.0))


def test_grey_is_three_equal_channels(features):
    grey = pixels(1, 1, 28, 28)
    assert torch.equal(features(grey).values, features(grey.repeat(1, 3, 1, 1)).values)
    assert "grey" in features.resize and "bilinear" in features.resize


def test_neither_batch_nor_layout_nor_random_state_matters(features, monkeypatch):
    images = pixels(5, 3, 32, 32)
    whole = features(images)
    before = torch.random.get_rng_state()
    assert torch.equal(features(images.to(memory_format=torch.channels_last)).values, whole.values)
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr(inception, "PART", 2)
    for given, right in zip(features(images), whole, strict=True):
        assert (given - right).abs().max() < 1e-6 * right.abs().max()
        assert not given.requires_grad


@pytest.mark.parametrize(
    "images",
    [pixels(1, 2, 8, 8), pixels(1, 4, 8, 8), pixels(3, 8, 8), pixels(1, 3, 0, 8), torch.zeros(1, 3, 8, 8)],
    ids=["two channels", "four channels", "one image", "no rows", "float"],
)
def test_other_images_are_refused(features, images):
    with pytest.raises(DataError, match=r"need uint8 \[B, 1 or 3, H, W\]") as caught:
        features(images)
    assert "\n" not in str(caught.value)


# --- the file ---------------------------------------------------------------------------------------------------


def test_without_the_file_the_message_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        open_inception()
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        str(tmp_path / "inception" / "pt_inception-2015-12-05-6726825d.pth"),
        "github.com/mseitzer/pytorch-fid",
        "--features pixels",
    ):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_the_cache_holds_the_published_file_or_none(monkeypatch, tmp_path, file):
    folder = tmp_path / "inception"
    folder.mkdir()
    (folder / "pt_inception-2015-12-05-6726825d.pth").symlink_to(file)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=f"SHA-256 is {storage.sha256(file)[:12]}…, need 6726825d0af5"):
        open_inception()
    # the published hash, were these the published weights
    monkeypatch.setattr(inception, "SHA256", storage.sha256(file))
    found = open_inception()
    assert found.name == open_inception(file).name == "inception"
    assert found.sha256 == open_inception(file).sha256


def test_the_published_hash_begins_as_the_file_is_called():
    assert re.fullmatch(r"[0-9a-f]{64}", inception.SHA256)
    assert inception.FILE == f"pt_inception-2015-12-05-{inception.SHA256[:8]}.pth"


def test_another_file_is_named_as_such(features, file, monkeypatch):
    digest = storage.sha256(file)
    assert features.name == f"inception (unknown weights {digest[:12]})"
    assert re.fullmatch(r"[0-9a-f]{64}", features.sha256) and features.sha256 != digest
    net = InceptionV3()
    assert Inception(net, digest).sha256 == features.sha256 != Inception(net, "0" * 64).sha256
    monkeypatch.setattr(inception, "PREPROCESSING", "another")
    assert Inception(net, digest).sha256 != features.sha256


def test_counters_may_be_missing_and_an_auxiliary_classifier_be_there(state, features, tmp_path):
    torch.save(state | {"AuxLogits.fc.bias": torch.zeros(1008)}, tmp_path / "other.pt")
    images = pixels(1, 3, 32, 32)
    assert torch.equal(open_inception(tmp_path / "other.pt")(images).values, features(images).values)


def test_weights_of_another_network_are_refused(state, tmp_path):
    path = tmp_path / "imagenet.pth"
    for change, what in (
        ({"fc.weight": torch.zeros(1000, 2048)}, r"fc.weight is \[1000, 2048\], the model needs \[1008, 2048\]"),
        ({"Mixed_8a.conv.weight": torch.zeros(1)}, "Mixed_8a.conv.weight is not part of the model"),
    ):
        torch.save(state | change, path)
        with pytest.raises(KeyMismatch, match=what):
            open_inception(path)
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, path)
    with pytest.raises(KeyMismatch, match="471 tensors missing"):
        open_inception(path)


def test_a_file_that_is_not_there_or_damaged_is_a_checkpoint_error(tmp_path, file):
    with pytest.raises(CheckpointError, match="no such file"):
        open_inception(tmp_path / "no.pth")
    (tmp_path / "half.pth").write_bytes(file.read_bytes()[:5_000_000])
    with pytest.raises(CheckpointError, match="not a readable torch file"):
        open_inception(tmp_path / "half.pth")


def test_weights_that_give_no_numbers_are_refused():
    net = InceptionV3()
    net.Conv2d_1a_3x3.bn.running_var.fill_(-1)
    with pytest.raises(CheckpointError, match="not finite"):
        Inception(net, "0" * 64)(pixels(1, 3, 8, 8))

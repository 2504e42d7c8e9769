"""torchvision beside a CPU-only torch: imported through gemel.learning.vision it works, without it it does not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

CIFAR_SHAPE = """
import warnings
warnings.simplefilter("error")
from gemel.learning.vision import import_torchvision
torchvision = import_torchvision()
assert import_torchvision() is torchvision
import torch
from torchvision import models, transforms
torch.set_num_threads(1)
crop = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, padding=4)])
logits = models.resnet18(num_classes=10)(crop(torch.zeros(2, 3, 32, 32)))
assert logits.shape == (2, 10)
dataset = torchvision.datasets.FakeData(2, (3, 32, 32), 10, transforms.ToTensor())
assert dataset[0][0].shape == (3, 32, 32)
"""


@pytest.fixture(autouse=True)
def torchvision_is_installed() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: the extra `vision`")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what one import declares would help or spoil the next."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_datasets_transforms_and_models_work() -> None:
    done = run(CIFAR_SHAPE)
    assert done.returncode == 0, done.stderr


def test_without_the_declarations_it_fails_or_has_its_own_operators() -> None:
    """When this fails, torchvision has learned to live without its operators, and the module may go."""
    done = run("import torchvision\nassert torchvision.extension._has_ops()")
    assert done.returncode == 0 or "torchvision::nms does not exist" in done.stderr

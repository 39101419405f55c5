"""Which device nodes the trainer's user must be able to open, on machines as they are: the listings in listings/.

They follow published listings and the driver's defaults; none was recorded on a machine of ours.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from nanolan.box.sandbox import confine, gpu_nodes
from tests.support.sandbox_fixtures import (
    as_root,
    python,  # noqa: F401  # a fixture
    work,  # noqa: F401  # a fixture
)

LISTINGS = Path(__file__).with_name("listings")
LINE = re.compile(r"c([-r][-w]-[-r][-w]-[-r][-w]-) +\d+ (\w+) +(\w+) +(\d+), +(\d+) +(\S+)")
GROUPS = {"root": 0, "video": 44, "render": 105, "kvm": 104}
EIGHT = [f"nvidia{i}" for i in range(8)]
OPEN = ["nvidiactl", "nvidia-uvm"]
# listing -> the nodes that are demanded, and the trainer's groups or the node that it cannot open
FOUND: dict[str, tuple[list[str], tuple[int, ...] | str]] = {
    "bare-metal-8xh100-sxm": ([*EIGHT, *OPEN], ()),
    "one-gpu-vm": (["nvidia0", *OPEN], ()),
    "one-gpu-vm-first-minute": (["nvidia0", "nvidiactl"], ()),
    "one-gpu-vm-video-group": (["nvidia0", *OPEN], (44,)),
    "mig-two-slices": (["nvidia0", *OPEN], ()),
    "docker-two-of-eight": (["nvidia3", "nvidia6", *OPEN], ()),
    "wsl2": (["dxg"], ()),
    "no-gpu": ([], ()),
    "gpu-of-root": (["nvidia0", *OPEN], "nvidia0"),
    "uvm-of-root": (["nvidia0", *OPEN], "nvidia-uvm"),
}


class Node(NamedTuple):
    """A line of a listing."""

    name: str
    mode: int
    group: str


def nodes_of(listing: str) -> list[Node]:
    """The nodes of a listing, all owned by root."""
    lines = (LISTINGS / f"{listing}.txt").read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    return [Node(m[6], mode_of(m[1]), m[3]) for m in found if m and m[2] == "root"]


def mode_of(letters: str) -> int:
    return sum(1 << 8 - i for i, letter in enumerate(letters) if letter != "-")


def made(listing: str, dev: Path) -> Path:
    """A folder with the nodes of a listing; all of them are /dev/null with its modes and groups."""
    for node in nodes_of(listing):
        path = dev / node.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.mknod(path, 0o020000, os.makedev(1, 3))
        except OSError as e:
            pytest.skip(f"no device nodes can be made here: {e.strerror}")
        path.chmod(node.mode)
        os.chown(path, 0, GROUPS[node.group])
    for folder in (dev, *(p for p in dev.iterdir() if p.is_dir())):
        folder.chmod(0o755)
    return dev


def test_every_listing_is_in_the_table_and_every_line_is_read() -> None:
    assert {p.stem for p in LISTINGS.iterdir()} == FOUND.keys()
    for listing in FOUND:
        lines = (LISTINGS / f"{listing}.txt").read_text().splitlines()
        assert len(nodes_of(listing)) == sum(not line.startswith("#") for line in lines)
    assert nodes_of("mig-two-slices")[4] == ("nvidia-caps/nvidia-cap1", 0o400, "root")
    assert nodes_of("one-gpu-vm-video-group")[0] == ("nvidia0", 0o660, "video")


@as_root
@pytest.mark.parametrize("listing", FOUND)
def test_only_what_cuda_opens_is_demanded(listing: str, tmp_path: Path) -> None:
    dev = made(listing, tmp_path / "dev")
    assert [p.name for p in gpu_nodes(dev)] == FOUND[listing][0]


@as_root
@pytest.mark.parametrize("listing", FOUND)
def test_the_trainer_has_a_user_of_its_own_unless_a_demanded_node_is_roots(
    listing: str,
    work: Path,  # noqa: F811
    python: str,  # noqa: F811
) -> None:
    dev = made(listing, work.parent / "dev")
    account, why = confine(work, python=python, dev=dev)
    if account is None and "nosuid" in why:
        pytest.skip(why)
    expected = FOUND[listing][1]
    if isinstance(expected, str):
        assert (account, why) == (None, f"{dev}/{expected} cannot be written")
    else:
        assert account and account.groups == expected, why


def test_a_plain_file_is_no_node_and_no_dev_has_none(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    assert gpu_nodes(tmp_path) == [] == gpu_nodes(tmp_path / "missing")

"""Ranks that lose one of them end with a line, not with a traceback each; other errors stay what they are."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from torch import distributed

from nanolan.train.processes import PeerLost, among_peers
from tests.support.state_fixtures import Forker, forker  # noqa: F401
from tests.support.tiny_world import write_job
from tests.train.test_main import steps_written, wait_for


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[pair.cc:553] gloo/transport/tcp: Connection closed by peer [127.0.0.1]:1"),
        RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer."),
        RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1200000ms"),
        distributed.DistBackendError("NCCL error in: ../ProcessGroupNCCL.cpp:2006"),
    ],
    ids=str,
)
def test_a_collective_that_fails_for_another_rank_is_a_lost_peer(error: Exception) -> None:
    with pytest.raises(PeerLost, match="another rank is gone"), among_peers():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("Connection closed by peer"),
    ],
    ids=str,
)
def test_another_error_is_this_ranks_own(error: Exception) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))), among_peers():
        raise error


def test_ranks_whose_peer_is_killed_end_with_one_line_each(
    tiny: Path,
    tmp_path: Path,
    forker: Forker,  # noqa: F811
) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", {"max_steps": 1_000_000, "val_rows": 0})
    pids = forker.start(job, 3)
    wait_for(lambda: steps_written(job, 3), 60, "three steps")
    os.kill(pids[1], signal.SIGKILL)
    codes = forker.end()
    # gloo may leave one waiting for another that has ended at times: torchrun ends it
    assert codes[1] == -9 and {codes[0], codes[2]} in ({1}, {1, None})
    said = job.with_name("out.txt").read_text().splitlines()
    after = [line for line in said if not line.startswith("mid ")]
    assert [line[:37] for line in sorted(after)] == [
        f"rank {rank}: stopped: another rank is gone" for rank in (0, 2) if codes[rank] == 1
    ]

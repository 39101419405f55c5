"""boot.sh as the provider's own user: it becomes root by sudo, or it gives the machine up. With stand-ins for `id` and `sudo`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT
from tests.cloud.test_boot import boot, bundle, script_of, timers
from tests.support.box_fixtures import KEY, TOKEN, Box, no_box_left

module = pytest.fixture(autouse=True, scope="module")(no_box_left)
# `sudo -n true` and `sudo -n /bin/bash SCRIPT`; from the latter on `id` says root
SUDO = '#!/bin/sh\n[ "$2" = true ] && exit 0\nshift; touch "$BOX_ROOT/is-root"; exec "$@"\n'
REFUSES = "#!/bin/sh\necho sudo: a password is required >&2; exit 1\n"
ID = '#!/bin/sh\n[ -e "$BOX_ROOT/is-root" ] && echo 0 || echo 1000\n'


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        yield made


def as_user(box: Box, sudo: str | None) -> str:
    """The startup script, which asks for root in this rehearsal, too."""
    for name, text in (("id", ID), ("sudo", sudo or "#!/bin/sh\nexit 127\n")):
        (box.root / "usr/bin" / name).write_text(text)
        (box.root / "usr/bin" / name).chmod(0o755)
    asks = '[ -n "$ROOT" ] || user='
    assert asks in (ROOT / "cloud/boot.sh").read_text()
    return script_of(bundle(box)).replace(
        'eval "$BOOT"', f"BOOT=${{BOOT/'{asks}'/user=}}; eval \"$BOOT\""
    )


def test_another_user_than_root_becomes_root_by_sudo(box: Box) -> None:
    assert boot(box, as_user(box, SUDO)) == 0
    assert box.log().count("BOX PROGRAM") == 1 and "FAILED" not in box.log() and not box.deleted
    assert box.log().count("boot: run ") == 1 and len(timers(box)) == 1


@pytest.mark.parametrize("sudo", [REFUSES, None], ids=["a password", "no sudo"])
def test_a_user_who_cannot_become_root_gives_the_machine_up(box: Box, sudo: str | None) -> None:
    script = as_user(box, sudo).replace(
        "#!/bin/bash\n", f"#!/bin/bash\nTMPDIR={box.root}\nexport TMPDIR\n", 1
    )
    (box.root / "root").write_text("")  # root's home takes nothing of another user's
    assert boot(box, script) == 0
    assert box.deleted and "BOX PROGRAM" not in box.log()
    assert "become root" in box.receipt()["message"]
    assert TOKEN not in box.log() and KEY not in box.log()

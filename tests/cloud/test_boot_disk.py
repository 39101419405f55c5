"""boot.sh's choice of a work folder, and of folders for caches and temporary files. Its own lines, in bash, with a df of ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT

CHMOD = '#!/bin/sh\ncase "$2" in */noexec*) exit 0 ;; esac\nexec /bin/chmod "$@"\n'


def lines_of_boot() -> str:
    """From the step that finds a disk to the next one."""
    text = (ROOT / "cloud/boot.sh").read_text()
    return text[text.index('STEP="find $MIN_FREE_GB') : text.index('STEP="install a C compiler"')]


def work_folder(root: Path, disks: dict[str, int]) -> tuple[int, str]:
    """(exit code, the work folder below `root`) on a machine with these mount points and GB free; the first is the home's. Nothing
    runs on a mount point called noexec: there chmod does nothing."""
    rows = [
        f"/dev/sd{i} 9 9 {gb * 10**6} 1% {root / at}" for i, (at, gb) in enumerate(disks.items())
    ]
    programs = {
        "df": "#!/bin/sh\necho Filesystem 1024-blocks Used Available Capacity Mounted on\n"
        f'case "$2" in *home) grep {root / next(iter(disks))}$ {root}/rows ;; */nanolan) grep "${{2%/nanolan}}$" {root}/rows ;;\n'
        f"*) cat {root}/rows ;; esac\n",
        "chmod": CHMOD,
    }
    (root / "rows").write_text("\n".join(rows) + "\n")
    for name, text in programs.items():
        program(root, name, text)
    for at in disks:
        (root / at).mkdir(parents=True, exist_ok=True)
    script = f"set -Eeuo pipefail; say() {{ :; }}; trap 'exit 3' ERR; ROOT=; MIN_FREE_GB=60\n{lines_of_boot()}"
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        env={
            "PATH": f"{root}/bin:/usr/bin:/bin",
            "HOME": f"{root}/home",
            "STATE": str(root),
            "TMPDIR": str(root),
        },
        check=False,
    )
    noted = root / "work"
    return done.returncode, noted.read_text().strip().removeprefix(
        f"{root}/"
    ) if noted.exists() else ""


def program(root: Path, name: str, text: str) -> None:
    """A stand-in that is found before the system's program."""
    path = root / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    "disks, code, chosen",
    [
        ({"root": 100}, 0, "root/nanolan"),
        ({"root": 100, "mnt": 900}, 0, "mnt/nanolan"),
        ({"root": 100, "mnt": 900, "noexec": 2000}, 0, "mnt/nanolan"),
        ({"root": 100, "mnt/my big disk": 900}, 0, "mnt/my big disk/nanolan"),
        ({"root": 100, "noexec  two blanks": 900}, 0, "root/nanolan"),
        ({"root": 20, "noexec": 900}, 3, ""),
        ({"noexec": 900}, 3, ""),
        ({"root": 20, "mnt": 59}, 3, ""),
    ],
    ids=str,
)
def test_the_work_folder_is_on_the_biggest_disk_that_runs_files(
    tmp_path: Path, disks: dict[str, int], code: int, chosen: str
) -> None:
    assert work_folder(tmp_path, disks) == (code, chosen)


@pytest.mark.parametrize(
    "given, chosen",
    [(None, "work/tmp"), ("fine", "fine"), ("noexec", "work/tmp"), ("missing", "work/tmp")],
)
def test_downloads_and_temporary_files_are_on_the_measured_disk(
    tmp_path: Path, given: str | None, chosen: str
) -> None:
    for name in ("work", "fine", "noexec"):
        (tmp_path / name).mkdir()
    program(tmp_path, "chmod", CHMOD)
    text = (ROOT / "cloud/boot.sh").read_text()
    usable = text[text.index("usable() {") : text.index('if [ -s "$STATE/work" ]')]
    lines = text[text.index("export XDG_CACHE_HOME") : text.index("NANOLAN_DEVICE=$DEVICE retry")]
    script = f"set -Eeuo pipefail; ROOT=; WORK={tmp_path}/work\n{usable}\n{lines}\n"
    done = subprocess.run(
        ["/bin/bash", "-c", script + 'env; echo fine >"$TMPDIR/file"'],
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        | ({"TMPDIR": f"{tmp_path}/{given}"} if given else {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert {f"TMPDIR={tmp_path}/{chosen}", f"XDG_CACHE_HOME={tmp_path}/work/cache"} <= set(
        done.stdout.splitlines()
    )

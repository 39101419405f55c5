"""`nanolan` as a command of its own, after `uv tool install` or `pipx install`: the recipes, from any folder.

A run sends a git checkout to its instance and installs pinned packages from it, so the wheel carries its source. The first
call writes it to ~/.nanolan/code/ (or NANOLAN_CODE) as a checkout of one commit; each call runs the recipes there, as ./just
does. Imports Python's own library and nanolan alone: the packages that were installed beside it are not the pinned ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nanolan.version import VERSION

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent  # where nanolan is not installed, but lies in its checkout
CARRIED = "_source"  # in the wheel: what a checkout has beside nanolan/
CLONE_ONLY = (
    *("bench", "fuzz", "lint", "mutate", "pictures", "pins"),
    *("test", "test-all", "test-pythons"),
)
OURS = re.compile(r"^\s*(?:export\s+)?(?:SHADEFORM_API_KEY|HF_TOKEN|HF_REPO)\s*=", re.M)
HELP = """nanolan {version}: the recipes below, from any folder.
Code and packages: {root}
Settings: the environment, .env of the current folder (if only you can read it), or {home}/.env
"""


def carried(package: Path) -> dict[str, Path]:
    """Path in a checkout -> file of the installed package; OSError if a folder of it cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    files = {}
    for folder, _, names in os.walk(package, onerror=refuse):
        for path in (Path(folder, name) for name in names):
            name = path.relative_to(package).as_posix()
            own = not name.startswith(f"{CARRIED}/")
            files[f"nanolan/{name}" if own else name.removeprefix(f"{CARRIED}/")] = path
    return {n: p for n, p in sorted(files.items()) if "__pycache__" not in p.parts}


def code_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where checkouts and their packages lie: not in NANOLAN_HOME, which is another one for each world of `sim`."""
    return Path(environ.get("NANOLAN_CODE") or Path.home() / ".nanolan/code").absolute()


def write_checkout(package: Path, folder: Path) -> Path:
    """The checkout of this package's files in `folder`; made if it is not there, whole or not at all."""
    from nanolan.code.git import AUTHOR, run_git

    files = carried(package)
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    target = folder / f"{VERSION}-{digest.hexdigest()[:8]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        for name, path in files.items():
            (temp / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, temp / name)
        (temp / "just").chmod(0o755)
        temp.chmod(0o755)
        run_git(temp, "init", "--quiet", "--template=")
        run_git(temp, "add", "--all")
        words = ("commit", "--quiet", "--no-gpg-sign", "--message", f"nanolan {VERSION}")
        run_git(temp, *words, env=AUTHOR)
        try:
            temp.rename(target)
        except OSError:  # another call was faster
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return target


def env_file(folder: Path, home: Path) -> tuple[Path | None, str]:
    """(the .env to use, a note). That of the current folder may be anyone's, such as of an archive or a clone, and could send
    your keys to another address: it counts only if it is yours and nobody else can read it, which no clone makes."""
    here, note = folder / ".env", ""
    try:
        found = here.stat()
        names_keys = OURS.search(here.read_text(encoding="utf-8", errors="replace"))
        if stat.S_ISREG(found.st_mode) and names_keys:
            if found.st_uid == os.getuid() and not found.st_mode & 0o077:
                return here, f"settings from {here}"
            note = f"{here} is not used: it must be yours alone (chmod 600 .env)"
    except OSError:
        pass
    return (home / ".env" if (home / ".env").is_file() else None), note


def environment(
    environ: Mapping[str, str], folder: Path, home: Path, init: bool = False
) -> tuple[dict[str, str], str]:
    """The environment of the recipes, and a note. The Python of this tool makes their .venv where there is no uv.
    `init` writes the .env in `home` if there is none to change."""
    env = dict(environ)
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    note = ""
    if not env.get("NANOLAN_ENV_FILE"):
        path, note = env_file(folder, home)
        if init and path is None:
            path = home / ".env"
            home.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        env |= {"NANOLAN_ENV_FILE": str(path)} if path else {}
    return env, note


def main() -> None:
    """Become `just` in the checkout, with the words of the command line."""
    from nanolan.errors import NanolanError
    from nanolan.settings.invoked import VARIABLE
    from nanolan.settings.paths import nanolan_home

    words, env, note = sys.argv[1:], dict(os.environ), ""
    if words[:1] == ["--version"]:
        print(f"nanolan {VERSION}")
        return
    try:
        home = nanolan_home()
        if (PACKAGE / CARRIED).is_dir():
            root = write_checkout(PACKAGE, code_folder())
            env, note = environment(os.environ, Path.cwd(), home, words[:1] == ["init"])
        elif (CHECKOUT / "just").is_file():
            root = CHECKOUT
        else:
            sys.exit("error: this package lacks its source; install it from a checkout or a wheel")
    except (NanolanError, OSError) as e:
        sys.exit(f"error: {e}")
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(version=VERSION, root=root, home=home))
        words = []
    if words[0:1] and words[0] in CLONE_ONLY and not (root / "tests").is_dir():
        sys.exit(
            f"error: `{words[0]}` is for changing nanolan itself: type ./just {words[0]} in a clone"
        )
    if note:
        print(f"note: {note}", file=sys.stderr)
    sys.stdout.flush()
    env[VARIABLE] = "nanolan"
    os.execvpe("sh", ["sh", str(root / "just"), *words], env)  # noqa: S606  # the words go on as they are


if __name__ == "__main__":
    main()

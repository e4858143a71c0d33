"""A project's image, built and run without Docker and without an image registry.

buildah builds the Dockerfile. Its base image is Debian from debootstrap with a Python of this
machine. A container is a chroot with a read-only root, as compose.yaml wants it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_SECONDS = 600
_LIBRARIES = (
    *("ca-certificates", "libbz2-1.0", "libexpat1", "libffi8", "liblzma5"),
    *("libreadline8", "libsqlite3-0", "libssl3", "libuuid1", "zlib1g"),
)
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ISOLATE = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount --bind /dev "$1/dev" &&
mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/tmp" || exit 125
root=$1 user=$2 folder=$3
shift 3
exec chroot "$root" setpriv --reuid "$user" --regid "$user" --clear-groups \
    --no-new-privs --bounding-set=-all --inh-caps=-all \
    sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""
"""`read_only`, `tmpfs: /tmp`, `no-new-privileges` and `cap_drop: ALL` of compose.yaml."""


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=_SECONDS
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def _python(version: str) -> Path:
    """The prefix of an installed Python that can be copied."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*"))
    for prefix in (*pyenv, Path("/usr/local")):
        if (prefix / "bin" / f"python{version}").exists():
            return prefix
    pytest.skip(f"needs a Python {version} of pyenv or in /usr/local, for the base image")


@dataclass
class Image:
    """The image of a Dockerfile, and commands that run in it."""

    root: Path
    """The files of the image."""
    config: dict[str, Any]
    """What the image says of itself: `Env`, `User`, `WorkingDir`, `Cmd`, `Healthcheck`."""
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command in a container, or the image's own; what it prints is in `stdout`."""
        environment = dict(entry.split("=", 1) for entry in self.config["Env"]) | variables
        arguments = [str(self.root), self.config["User"], self.config["WorkingDir"]]
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _ISOLATE, "sh", *arguments, *self.command(command)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def command(self, given: Iterable[str]) -> list[str]:
        return list(given) or self.config["Cmd"]

    def run(self, *command: str, **variables: str) -> str:
        """Run a command to its end; it must succeed. Returns what it printed."""
        process = self.start(*command, **variables)
        output, _ = process.communicate(timeout=_SECONDS)
        assert process.returncode == 0, f"{command}: {output}"
        return output

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def build(project: Path, folder: Path) -> Image:
    """Build the project's Dockerfile. Skips the test where a program for that is missing."""
    for program in ("buildah", "debootstrap", "unshare"):
        if os.geteuid() != 0 or shutil.which(program) is None:
            pytest.skip(f"needs root and {program}; on Debian: apt-get install {program}")
    dockerfile = (project / "Dockerfile").read_text()
    (tag, version), *others = re.findall(r"^FROM (python:([\d.]+)-slim)", dockerfile, re.M)
    assert {tag for tag, _ in others} <= {tag}
    base = _base(folder / "base", _python(version), version)
    buildah = _buildah(folder)
    (folder / "Base").write_text(f"FROM scratch\nCOPY {base.name}/ /\nENV PATH={_PATH}\n")
    build = (*buildah, "bud", "--isolation", "chroot", "--pull-never", "--format", "docker")
    _run(*build, "--tag", f"localhost/{tag}", "--file", folder / "Base", folder)
    shutil.rmtree(base)
    _run(*build, "--tag", "project", project)
    container = _run(*buildah, "from", "--pull-never", "project").strip()
    config = json.loads(_run(*buildah, "inspect", container))["Docker"]["config"]
    return Image(Path(_run(*buildah, "mount", container).strip()), config)


def _buildah(folder: Path) -> tuple[str, ...]:
    places: Mapping[str, Path] = {"--root": folder / "storage", "--runroot": folder / "run"}
    options = (str(part) for option in places.items() for part in option)
    return ("buildah", *options, "--storage-driver", "vfs")


def _base(folder: Path, python: Path, version: str) -> Path:
    """What the base image has: Debian, a Python in /usr/local, and this machine's certificates, so
    that pip reaches the same registry as here."""
    include = f"--include={','.join(_LIBRARIES)}"
    release = re.findall(r"^VERSION_CODENAME=(.+)$", Path("/etc/os-release").read_text(), re.M)
    _run("debootstrap", "--variant=minbase", include, release[0], folder)
    certificates = Path("etc/ssl/certs/ca-certificates.crt")
    shutil.copy2("/" / certificates, folder / certificates)
    local = folder / "usr" / "local"
    packages = f"python{version}/site-packages"
    for name in (f"bin/python{version}", f"lib/python{version}"):
        if (python / name).is_dir():
            ignored = shutil.ignore_patterns("test", "__pycache__", "config-*", "site-packages")
            shutil.copytree(python / name, local / name, ignore=ignored)
        else:
            shutil.copy2(python / name, local / name)
    for library in (python / "lib").glob("libpython*.so*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    for package in (python / "lib" / packages).glob("pip*"):
        shutil.copytree(package, local / "lib" / packages / package.name)
    (local / "bin" / "python").symlink_to(f"python{version}")
    _run("chroot", folder, "ldconfig")
    return folder

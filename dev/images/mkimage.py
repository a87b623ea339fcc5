#!/usr/bin/env python3
"""Writes a one-layer OCI image as a tar that containerd, podman and skopeo import. Equal input gives equal bytes.

    mkimage.py OUT.tar NAME:TAG [options] SRC:DST[:MODE]...

SRC may be a folder: it is taken whole, and symbolic links inside it stay links. The manifest's digest is written beside the
image as OUT.tar.digest, so that an import of what is already there can be skipped.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("name")
    p.add_argument("files", nargs="*", metavar="SRC:DST[:MODE]")
    p.add_argument("--entry", default="[]", help="entrypoint, a JSON list")
    p.add_argument("--env", action="append", default=[], metavar="K=V")
    p.add_argument("--user", default="", metavar="UID:GID")
    p.add_argument("--stop-signal", default="")
    p.add_argument("--from", dest="lists", action="append", default=[], help="a file of SRC:DST lines")
    p.add_argument("--dir", action="append", default=[], metavar="PATH:MODE", help="an empty folder")
    return p.parse_intermixed_args()


def collect(a):
    """What goes into the layer: destination -> (kind, source or link target, mode)."""
    want = {}

    def put_file(src, dst, mode=None):
        want[dst.strip("/")] = ("file", src, os.stat(src).st_mode & 0o777 if mode is None else mode)

    def put_folder(src, dst):
        inside = os.path.realpath(src)
        for root, folders, files in os.walk(src):
            below = os.path.relpath(root, src)
            base = dst if below == "." else os.path.join(dst, below)
            links = [f for f in folders if os.path.islink(os.path.join(root, f))]
            for n in files + links:
                path, to = os.path.join(root, n), os.path.join(base, n)
                if not os.path.islink(path):
                    put_file(path, to)
                elif os.path.exists(path) and not os.path.realpath(path).startswith(inside):
                    put_file(os.path.realpath(path), to)  # a link that leaves the folder would dangle: copy
                else:
                    want[to.strip("/")] = ("link", os.readlink(path), 0o777)

    specs = list(a.files)
    for name in a.lists:
        with open(name) as f:
            specs += [line.strip() for line in f if line.strip()]
    for spec in specs:
        src, dst, *mode = spec.split(":")
        if os.path.isdir(src):
            put_folder(src, dst)
        else:
            put_file(src, dst, int(mode[0], 8) if mode else None)
    for d in a.dir:
        path, _, mode = d.partition(":")
        want[path.strip("/")] = ("dir", "", int(mode or "755", 8))
    return want


def add(tar, name, data=b"", mode=0o644, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.mode, info.mtime, info.type, info.linkname, info.uid, info.gid = mode, 0, kind, link, 0, 0
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def layer_of(want):
    out, made = io.BytesIO(), set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for dst in sorted(want):
            kind, src, mode = want[dst]
            parts = dst.split("/")
            for n in range(1, len(parts)):
                parent = "/".join(parts[:n])
                if parent not in made and parent not in want:
                    made.add(parent)
                    add(tar, parent + "/", mode=0o755, kind=tarfile.DIRTYPE)
            if kind == "dir":
                add(tar, dst + "/", mode=mode, kind=tarfile.DIRTYPE)
            elif kind == "link":
                add(tar, dst, mode=mode, kind=tarfile.SYMTYPE, link=src)
            else:
                with open(src, "rb") as f:
                    add(tar, dst, f.read(), mode)
    return out.getvalue()


def main():
    a = arguments()
    layer = layer_of(collect(a))
    blobs = {}

    def put(data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"digest": digest, "size": len(data)}

    def put_json(value):
        return put(json.dumps(value, sort_keys=True).encode())

    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    media = "application/vnd.oci.image."
    config = {"Entrypoint": json.loads(a.entry), "Env": a.env or [DEFAULT_PATH], "User": a.user, "StopSignal": a.stop_signal}
    stored = put(layer)
    manifest = put_json({
        "schemaVersion": 2,
        "mediaType": media + "manifest.v1+json",
        "config": {"mediaType": media + "config.v1+json"} | put_json({
            "created": "1970-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": {k: v for k, v in config.items() if v},
            "rootfs": {"type": "layers", "diff_ids": [stored["digest"]]},
        }),
        "layers": [{"mediaType": media + "layer.v1.tar"} | stored],
    })
    index = {
        "schemaVersion": 2,
        "mediaType": media + "index.v1+json",
        "manifests": [{"mediaType": media + "manifest.v1+json"} | manifest | {
            "platform": {"os": "linux", "architecture": architecture},
            "annotations": {"io.containerd.image.name": a.name},
        }],
    }
    with tarfile.open(a.out + ".new", "w") as tar:
        for digest in sorted(blobs):
            add(tar, "blobs/sha256/" + digest.split(":")[1], blobs[digest])
        add(tar, "index.json", json.dumps(index, sort_keys=True).encode())
        add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    os.replace(a.out + ".new", a.out)
    with open(a.out + ".digest", "w") as f:
        f.write(f"{a.name} {manifest['digest']}\n")


main()

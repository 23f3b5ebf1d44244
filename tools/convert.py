#!/usr/bin/env python3
"""Turns features in .h5 and .pt files, and captions in a .pkl, into files that Moviola reads.

Reads
  .h5, .hdf5   one dataset [V, T, D] beside a dataset of V ids, or a group or dataset an id
  .pt, .pth    a dict of id -> tensor, loaded with weights_only=True: pickles of anything else are refused
  .pkl         captions: a dict of id -> captions, each a string or a list of words, as MSVD's raw-captions.pkl;
               a pickle that names any class or function is refused before it is called
Writes
  a folder of .npy, one an id (default), or one .safetensors whose tensor names are ids;
  for captions a .json: {"id": ["a caption", ...]}

Examples
  python tools/convert.py test.h5 videos/ --ids vid --features CLIPL_I
  python tools/convert.py clip.pt videos.safetensors --dtype f16
  python tools/convert.py raw-captions.pkl raw-captions.json
  moviola data convert videos/ native/ --encoder openai/clip-vit-large-patch14

Needs numpy; h5py for .h5, torch for .pt, safetensors for .safetensors. Captions need nothing.
"""

import argparse
import json
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path

FORBIDDEN = set('/\\:*?"<>|')
ID_NAMES = ("ids", "id", "vid", "vids", "video_ids", "video_id", "names", "keys")
GROUP_NAMES = ("features", "feature", "data", "feat")


class Refused(Exception):
    """The input cannot be used; the text says why and what to do."""


def need(module, what):
    """Imports a module, or says how to get it."""
    try:
        return __import__(module)
    except ImportError as error:
        raise Refused(f"{what} needs the Python package {module} ({error}); pip install {module}") from error


def from_h5(path, ids_name, features_name):
    """Yields (id, array) from an HDF5 file."""
    h5py = need("h5py", "reading .h5")
    numpy = need("numpy", "converting")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise Refused(f"{path}: this is no readable HDF5 file ({error}); copy it again") from error
    with file:
        names = list(file.keys())
        ids_name = ids_name or next((name for name in ID_NAMES if name in names), None)
        if ids_name is None:
            yield from groups(path, file, names, h5py, features_name)
            return
        for name in (ids_name, features_name):
            if name is not None and not isinstance(file.get(name), h5py.Dataset):
                raise Refused(f"{path}: there is no dataset {name!r}; it has {names}")
        if features_name is None:
            big = [name for name in names if isinstance(file[name], h5py.Dataset) and file[name].ndim == 3]
            if len(big) != 1:
                raise Refused(f"{path}: {len(big)} datasets are [V, T, D], of {names}; choose one with --features")
            features_name = big[0]
        ids, features = file[ids_name][()], file[features_name]
        if features.ndim != 3 or numpy.ndim(ids) != 1 or len(ids) != features.shape[0]:
            raise Refused(
                f"{path}: {features_name} is {list(features.shape)} and {ids_name} {list(numpy.shape(ids))}; "
                "expected [V, T, D] and [V]"
            )
        for position, name in enumerate(ids):
            yield (name.decode() if isinstance(name, bytes) else str(name)), features[position]


def groups(path, file, names, h5py, features_name):
    """Yields (id, array) from one dataset or group an id."""
    for name in names:
        item = file[name]
        if isinstance(item, h5py.Group):
            choices = [features_name] if features_name else [key for key in GROUP_NAMES if key in item]
            choices = choices or (list(item.keys()) if len(item) == 1 else [])
            if not choices or not isinstance(item.get(choices[0]), h5py.Dataset):
                raise Refused(f"{path}: group {name!r} has {list(item.keys())}; choose one with --features")
            item = item[choices[0]]
        yield name, item[()]


def from_pt(path):
    """Yields (id, array) from a dict of tensors."""
    torch = need("torch", "reading .pt")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch's own text advises weights_only=False, which would run whatever the file says.
        raise Refused(
            f"{path}: refused ({type(error).__name__}), since it is broken or holds more than tensors, "
            "which could run code; save a plain dict of id -> tensor"
        ) from error
    if not isinstance(found, dict):
        raise Refused(f"{path}: holds a {type(found).__name__}; save a dict of id -> tensor")
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise Refused(f"{path}: {name!r} is a {type(value).__name__}, not a tensor; save a dict of id -> tensor")
        yield str(name), value.detach().float().numpy()


class Plain(pickle.Unpickler):
    """Reads dicts, lists and strings; whatever a pickle wants to import is refused, so that it can run nothing."""

    def find_class(self, module, name):
        raise Refused(f"it names {module}.{name}, which could run code; save a plain dict of id -> captions")


def from_pkl(path):
    """A dict of id -> list of captions, each one string."""
    with open(path, "rb") as file:
        try:
            # Strings of Python 2 are bytes.
            found = Plain(file, encoding="utf-8").load()
        except Refused as error:
            raise Refused(f"{path}: {error}") from error
        except Exception as error:
            raise Refused(f"{path}: this is no readable pickle ({type(error).__name__}: {error}); copy it again") from error
    if not isinstance(found, dict):
        raise Refused(f"{path}: holds a {type(found).__name__}; expected a dict of id -> captions")
    captions = {}
    for name, texts in found.items():
        if not isinstance(name, str) or not isinstance(texts, (list, tuple)):
            raise Refused(f"{path}: {name!r}: expected a string and a list of captions")
        captions[name] = [sentence(path, name, text) for text in texts]
    return captions


def sentence(path, name, text):
    """One caption from a string or its words."""
    if isinstance(text, (list, tuple)) and all(isinstance(word, str) for word in text):
        return " ".join(text)
    if not isinstance(text, str):
        raise Refused(f"{path}: {name!r}: a caption is a {type(text).__name__}; expected a string or a list of words")
    return text


def write_json(target, captions):
    """One file that appears when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps(captions, ensure_ascii=False, indent=0), encoding="utf-8")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return len(captions)


def proven(path, items, dtype, limit):
    """Yields (id, [T, D] array of the wanted type), checked."""
    numpy = need("numpy", "converting")
    seen, dim = set(), None
    for count, (name, value) in enumerate(items):
        if limit is not None and count >= limit:
            return
        where = f"{path}: {name}"
        array = numpy.asarray(value)
        if array.dtype.kind != "f":
            raise Refused(f"{where}: values of type {array.dtype}; expected floats")
        if array.ndim == 1:
            array = array[None, :]
        if array.ndim != 2 or 0 in array.shape:
            raise Refused(f"{where}: the shape is {list(numpy.shape(value))}; expected [T, D] with T and D at least 1")
        dim = dim or array.shape[1]
        if array.shape[1] != dim:
            raise Refused(f"{where}: rows have {array.shape[1]} values, those before {dim}; use one encoder for all")
        if not numpy.isfinite(array).all():
            row, column = numpy.argwhere(~numpy.isfinite(array))[0]
            raise Refused(f"{where}: row {row}, column {column} is {array[row, column]}; encode it again or remove it")
        with numpy.errstate(over="ignore"):
            array = numpy.ascontiguousarray(array.astype("<f2" if dtype == "f16" else "<f4"))
        if not numpy.isfinite(array).all():
            raise Refused(f"{where}: values are too large for {dtype}; use --dtype f32")
        if name in seen:
            raise Refused(f"{where}: this id occurs twice; give each item its own")
        seen.add(name)
        yield name, array


def write_npy(target, items):
    """One file an id, in a folder that appears when it is complete."""
    numpy = need("numpy", "converting")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refused(f"{target}: exists and is not an empty folder; name another")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        count = 0
        for name, array in items:
            if not name or name.startswith(".") or FORBIDDEN & set(name) or len(name) > 200 or not name.isprintable():
                raise Refused(f"{name!r} cannot be the name of a file; write a .safetensors instead")
            numpy.save(partial / f"{name}.npy", array)
            count += 1
        if count == 0:
            raise Refused(f"{target}: there is nothing to write")
        partial.chmod(0o755)
        if target.is_dir():
            target.rmdir()
        os.replace(partial, target)
        return count
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_safetensors(target, items):
    """One file; all of it is held in memory."""
    need("safetensors", "writing .safetensors")
    from safetensors.numpy import save_file

    tensors = dict(items)
    if not tensors:
        raise Refused(f"{target}: there is nothing to write")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        save_file(tensors, partial)
        partial.chmod(0o644)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return len(tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help=".h5, .hdf5, .pt, .pth or .pkl")
    parser.add_argument("target", type=Path, help="a new folder, or a name that ends in .safetensors (.json for .pkl)")
    parser.add_argument("--ids", help="the .h5 dataset of ids (default: the first of %s)" % ", ".join(ID_NAMES))
    parser.add_argument("--features", help="the .h5 dataset [V, T, D], or the dataset in each group")
    parser.add_argument("--dtype", choices=("f16", "f32"), default="f32", help="values as written (default: f32)")
    parser.add_argument("--limit", type=int, help="only so many items")
    options = parser.parse_args()
    try:
        if options.source.suffix == ".pkl":
            if options.target.suffix != ".json":
                raise Refused(f"{options.target}: captions become .json; name such a file")
            count = write_json(options.target, from_pkl(options.source))
            print(f"captions of {count} videos -> {options.target}")
            return 0
        if options.source.suffix in (".h5", ".hdf5"):
            items = from_h5(options.source, options.ids, options.features)
        elif options.source.suffix in (".pt", ".pth"):
            items = from_pt(options.source)
        else:
            raise Refused(f"{options.source}: expected .h5, .hdf5, .pt, .pth or .pkl")
        items = proven(options.source, items, options.dtype, options.limit)
        write = write_safetensors if options.target.suffix == ".safetensors" else write_npy
        count = write(options.target, items)
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{count} items -> {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

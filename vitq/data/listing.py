"""The images of one split, listed: in a folder, or in a .tar of one.

The rules are those of timm's readers (a test compares the two): PNG and JPEG by their suffix; the class is the name of
the folder that holds the image. What timm reads and no data set means is left out and named (hidden folders), what it
drops is named (other suffixes), and what cannot be read at all is an error (links that lead nowhere or in a circle).
"""

from __future__ import annotations

import dataclasses
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitq.data.content import LFS
from vitq.errors import DataError, shortened

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg"))
SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"))
# On a network file system the time goes into waiting for one answer per file.
_THREADS = 16
_SHOWN = 3
# Files that systems leave everywhere.
_LITTER = frozenset(("thumbs.db", "desktop.ini"))
# Bytes of a PNG up to its bit depth and colour type.
_PNG_HEAD = 26
_PNG = b"\x89PNG\r\n\x1a\n"
# Bytes below which a file may be a pointer of Git LFS; images are rarely so small.
_SMALL = 200


@dataclass(frozen=True)
class Listing:
    """Images of one split, sorted by name.

    path: the split's folder, or the archive and the folder in it. names: paths below it; sizes: in bytes; classes:
    folder names. sixteen: names of gray images with 16 bits. left_out: what was not taken, in
    words. archive: the .tar and where in it each image begins; None for a folder. newest: when the image changed last
    that did so latest, seconds since 1970; 0 for an archive, which is known by its content.
    """

    path: str
    names: list[str]
    sizes: list[int]
    classes: list[str]
    sixteen: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()
    archive: tuple[str, list[int]] | None = None
    newest: float = 0.0

    def read(self, index: int) -> bytes:
        """The file of one image. Raises OSError."""
        if self.archive is None:
            return Path(self.path, self.names[index]).read_bytes()
        with open(self.archive[0], "rb") as file:
            file.seek(self.archive[1][index])
            return file.read(self.sizes[index])


@dataclass
class _Contents:
    images: list[tuple[str, int, str]] = field(default_factory=list)  # path, size, class
    sixteen: set[str] = field(default_factory=set)
    deep_colours: int = 0
    see_through: int = 0
    others: Counter[str] = field(default_factory=Counter)
    hidden: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    newest: float = 0.0


def split_folder(root: str, split: str) -> Path:
    """Folder of a split. Raises DataError that lists the folders that exist when the split has none."""
    base = Path(root).expanduser()
    if not base.is_dir():
        why = "is a URL; mount it, or copy what is there" if "://" in root else "is not a folder"
        text = f"data.root={root!r} {why}; set data.root to the folder that holds the splits"
        raise DataError(text, "data.root", root)
    for name in synonyms(split):
        if (base / name).is_dir():
            return base / name
    raise no_split(root, split)


def no_split(root: str, split: str) -> DataError:
    """The error of a root without a folder for a split; it lists the folders that exist."""
    folders = sorted(entry.name for entry in _entries(str(Path(root).expanduser())) if _is_dir(entry))
    text = f"data.root={root!r} has no split {split!r}; folders there: {', '.join(folders[:20]) or 'none'}"
    return DataError(f"{text}; set data.calib_split and data.eval_split", value=split, valid=folders)


def synonyms(split: str) -> list[str]:
    """Folder names that a split may have, the given one first."""
    names = next((group for group in SYNONYMS if split in group), ())
    return list(dict.fromkeys((split, *names)))


def stamp(folder: Path) -> tuple[int, int]:
    """Changes when an image is added to, or removed from, a split or its class folders: a cheap question."""
    entries = _entries(str(folder))
    return (folder.stat().st_mtime_ns, sum(e.stat().st_mtime_ns for e in entries if _is_dir(e)))


def list_folder(path: Path, named: Collection[str] = ()) -> Listing:
    """All images below a folder. named: classes of a map, which count even where their folder is hidden.

    Raises DataError: no image, a folder that cannot be read, links that lead nowhere or back.
    """
    folder = str(path)
    hidden: list[str] = []
    folders = list(_folders(folder, (), named, hidden))
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(lambda inner: _look(inner, folder), folders))
    start = len(folder.rstrip(os.sep)) + 1
    broken = sorted(path[start:] for part in parts for path in part.broken)
    if broken:
        text = f"{folder!r}: {len(broken)} links lead to no file: {shortened(broken, _SHOWN)}"
        action = "bring back what they point to (`git annex get`, `dvc pull`, a purged scratch), or remove them"
        raise DataError(f"{text}; {action}", value=broken)
    images = [(path[start:], size, label) for part in parts for path, size, label in part.images]
    pointer = next((path for path, size, _ in images if 0 < size < _SMALL), None)
    if pointer is not None and _head(os.path.join(folder, pointer)).startswith(LFS):
        text = f"image {pointer!r} in {folder!r} is a pointer of Git LFS; get the images themselves with `git lfs pull`"
        raise DataError(text, value=pointer, action="git lfs pull")
    others: Counter[str] = sum((part.others for part in parts), Counter())
    hidden = sorted(path[start:] for path in [*hidden, *(path for part in parts for path in part.hidden)])
    sixteen = frozenset(path[start:] for part in parts for path in part.sixteen)
    special = sum(part.deep_colours for part in parts), sum(part.see_through for part in parts)
    newest = max(part.newest for part in parts)
    return _listing(folder, images, sixteen=sixteen, left_out=_left_out(others, hidden, *special), newest=newest)


def list_tar(path: Path, split: str) -> Listing:
    """The images of a split in an uncompressed archive: those in its folder of that name, all where it has none.

    Raises DataError when it cannot be read or holds no image.
    """

    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isfile() or member.issym() or member.islnk()]
    except (OSError, tarfile.TarError) as error:
        text = f"data.root={str(path)!r} cannot be read as a .tar: {error}; unpack it, or give a whole one"
        raise DataError(text, "data.root", str(path)) from error
    names = {os.path.normpath(member.name): member for member in members}
    top = next((n for n in synonyms(split) if any(name.startswith(f"{n}/") for name in names)), None)
    images, begins, others, hidden = [], {}, Counter[str](), []
    for name, member in names.items():
        inside = name if top is None else name.removeprefix(f"{top}/")
        if top is not None and inside == name:
            continue
        if any(part.startswith(".") for part in Path(inside).parts):
            hidden.append(inside)
            continue
        suffix = os.path.splitext(inside)[1].lower()
        if suffix not in EXTENSIONS:
            others[suffix or "no suffix"] += 1
            continue
        if not member.isfile():
            text = f"{str(path)!r}: {name} is a link in the archive; pack the files themselves (tar --dereference)"
            raise DataError(text, value=name)
        images.append((inside, member.size, os.path.basename(os.path.dirname(inside))))
        begins[inside] = member.offset_data
    listing = _listing(str(path) if top is None else f"{path}:{top}", images)
    listing = dataclasses.replace(listing, archive=(str(path), [begins[name] for name in listing.names]))
    pngs = [i for i, name in enumerate(listing.names) if name.lower().endswith(".png")]
    heads = {listing.names[i]: listing.read(i)[:_PNG_HEAD] for i in pngs}
    kinds = {name: _deep(head) for name, head in heads.items()}
    special = sum(kind == "colour" for kind in kinds.values()), sum(map(_has_alpha, heads.values()))
    gray = frozenset(name for name, kind in kinds.items() if kind == "gray")
    return dataclasses.replace(listing, sixteen=gray, left_out=_left_out(others, hidden, *special))


def _listing(path: str, images: list[tuple[str, int, str]], **more: Any) -> Listing:
    """The images (name, size, class), sorted by name. Raises DataError where there is none, or an empty one."""
    if not images:
        valid = sorted(EXTENSIONS)
        text = f"no image below {path!r}; expected <class folder>/<name> with one of {', '.join(valid)}"
        raise DataError(text, value=path, valid=valid)
    if empty := sorted(name for name, size, _ in images if not size):
        text = f"{path!r}: {len(empty)} images are empty files: {shortened(empty, _SHOWN)}"
        action = "copy them again (a transfer that broke off, a full disk or quota), or take them out of the split"
        raise DataError(f"{text}; {action}", value=empty)
    names, sizes, classes = (list(column) for column in zip(*sorted(images), strict=True))
    return Listing(path, names, sizes, classes, **more)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        action = "give it back its permissions (chmod -R u+rX), or take it out of the split"
        text = f"folder {folder!r} cannot be read: {error.strerror or error}; {action}"
        raise DataError(text, value=folder) from error


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; `_look` names it
        return False


def _folders(
    folder: str, above: tuple[tuple[int, int], ...], named: Collection[str], hidden: list[str]
) -> Iterator[str]:
    """A folder and those below it, links followed; hidden ones with images are noted in `hidden` and left out."""
    facts = os.stat(folder)
    own = (facts.st_dev, facts.st_ino)
    if own in above:
        text = f"{folder!r} is a link to a folder that holds it: its images would be read again and again; remove it"
        raise DataError(text, value=folder)
    yield folder
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if not _is_dir(entry):
            continue
        if entry.name.startswith(".") and entry.name not in named:
            if any(os.path.splitext(inner.name)[1].lower() in EXTENSIONS for inner in _entries(entry.path)):
                hidden.append(entry.path)
            continue
        yield from _folders(entry.path, (*above, own), named, hidden)


def _look(folder: str, top: str) -> _Contents:
    """What lies directly in a folder; the class of an image beside the class folders is ''."""
    label = "" if folder == top else os.path.basename(folder)
    contents = _Contents()
    for entry in _entries(folder):
        suffix = os.path.splitext(entry.name)[1].lower()
        try:
            facts = entry.stat()
        except OSError:
            contents.broken.append(entry.path)
            continue
        if stat.S_ISDIR(facts.st_mode):
            continue
        if entry.name.startswith("._"):  # macOS keeps what its file system cannot beside each file
            contents.hidden.append(entry.path)
        elif suffix in EXTENSIONS and stat.S_ISREG(facts.st_mode):
            contents.images.append((entry.path, facts.st_size, label))
            contents.newest = max(contents.newest, facts.st_mtime)
            head = _head(entry.path) if suffix == ".png" else b""
            deep = _deep(head)
            contents.see_through += _has_alpha(head)
            if deep == "gray":
                contents.sixteen.add(entry.path)
            contents.deep_colours += deep == "colour"
        elif not entry.name.startswith(".") and entry.name.lower() not in _LITTER:
            contents.others[suffix or "no suffix"] += 1
    return contents


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_PNG_HEAD)
    except OSError as error:
        text = f"image {path!r} cannot be read: {error.strerror or error}; give it back its permissions"
        raise DataError(text, value=path) from error


def _deep(head: bytes) -> Literal["gray", "colour"] | None:
    """What a PNG that begins so has 16 bits of: its depth and colour type (0: gray) are bytes 24 and 25, in IHDR."""
    if head[:8] != _PNG or head[24:25] != b"\x10":
        return None
    return "gray" if head[25:26] == b"\x00" else "colour"


def _has_alpha(head: bytes) -> bool:
    """Whether a PNG that begins so says for each pixel how far one sees through it: colour types 4 and 6."""
    return head[:8] == _PNG and head[25:26] in (b"\x04", b"\x06")


def _left_out(others: Counter[str], hidden: list[str], deep_colours: int, see_through: int) -> tuple[str, ...]:
    words = []
    if see_through:
        words.append(f"{see_through} images are transparent in places; the colours below are read, transparency is not")
    if deep_colours:
        words.append(f"{deep_colours} images have 16 bits for each colour; the upper 8 are read, 65535 is white")
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        number = sum(others.values())
        several = f"{number} files are no PNG or JPEG by their names and are left out"
        words.append(f"{several if number > 1 else '1 file is no PNG or JPEG by its name and is left out'} ({kinds})")
    if hidden:
        words.append(f"{len(hidden)} hidden files and folders are left out: {shortened(hidden, _SHOWN)}")
    return tuple(words)

"""Fetching a published archive: resumable, checked, and unpacked without leaving its folder."""

from __future__ import annotations

import hashlib
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from tilesegment.errors import InputError, OutputError

_CHUNK = 1 << 20


def fetch_archive(url: str, md5: str | None, folder: Path) -> None:
    """Download a tar archive into `folder` and unpack it there. An interrupted download goes on where it
    stopped. Nothing is unpacked whose checksum is wrong or that would leave the folder.

    Raises InputError where the server does not give the file or it is not the one that was published,
    OutputError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / Path(url).name
        partial = archive.with_name(archive.name + ".part")
        if not archive.is_file():
            _download(url, partial)
            if md5 is not None:
                _verify(partial, md5)
            partial.replace(archive)
        with tarfile.open(archive) as file:
            # The filter refuses absolute names, links and whatever points outside (PEP 706).
            file.extractall(folder, filter="data")
    except urllib.error.URLError as error:
        raise InputError(f"{url}: cannot be fetched ({error.reason}); what came is kept") from error
    except tarfile.TarError as error:
        raise InputError(f"{url}: cannot be unpacked ({error})") from error
    except (TimeoutError, ConnectionError) as error:
        raise InputError(f"{url}: the connection broke ({error}); run it again to go on") from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _download(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - the URL is ours
            # 200 instead of 206: the server sends it all again.
            with partial.open("ab" if answer.status == 206 else "wb") as out:
                while chunk := answer.read(_CHUNK):
                    out.write(chunk)
                came = out.tell() - (have if answer.status == 206 else 0)
            wanted = answer.headers.get("Content-Length")
            if wanted is not None and came < int(wanted):
                raise ConnectionError(f"{came} of {wanted} bytes came")
    except urllib.error.HTTPError as error:
        # 416: there is nothing behind what we have.
        if error.code != 416:
            raise


def _verify(file: Path, md5: str) -> None:
    """Against damage, by the checksum that the publisher gives."""
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "md5").hexdigest()
    if found != md5:
        file.unlink()
        raise InputError(f"{file.name}: md5 is {found}, not {md5}; it was removed, fetch it again")

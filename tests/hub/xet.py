"""Xet's storage, in a folder: hf_xet takes `local://` for the address of a server."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory


class XetStorage:
    """What hf_xet uploads to and downloads from.

    Args:
        url: its address.

    Xet's server tells the Hub which of its hashes is which SHA-256. A folder tells nobody: a test says beforehand which
    files there may be.
    """

    def __init__(self, url: str):
        self.url = url
        self.hashes: dict[str, str] = {}

    def expect(self, *files: Path) -> None:
        import hf_xet

        for file, found in zip(files, hf_xet.hash_files([str(file) for file in files]), strict=True):
            self.hashes[hashlib.sha256(file.read_bytes()).hexdigest()] = found.hash

    def content(self, oid: str) -> bytes:
        """What was uploaded."""
        import hf_xet

        with TemporaryDirectory() as folder:
            file = Path(folder, "file")
            found = hf_xet.XetFileInfo(self.hashes[oid], None)
            with hf_xet.XetSession().new_file_download_group(endpoint=self.url) as group:
                group.start_download_file(found, str(file))
            return file.read_bytes()

"""A certificate authority of the tests' own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cwasi_fastpath.transport.tls import TlsFiles


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


class Authority:
    """Signs certificates for this machine."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.certificate = directory / "authority.pem"
        self._key = directory / "authority.key"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2,
                "-subj", "/CN=authority", "-keyout", self._key, "-out", self.certificate)  # fmt: skip

    def files(self, name: str, address: str = "127.0.0.1", until: str | None = None) -> TlsFiles:
        """A certificate with that name, of who is at the address. until: when it expires, else in two days."""
        request, extension, signed, key = (self._directory / f"{name}.{end}" for end in ("csr", "ext", "pem", "key"))
        extension.write_text(f"subjectAltName=IP:{address}\n")
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", f"/CN={name}", "-keyout", key, "-out", request)  # fmt: skip
        if until is None:
            openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
                    "-days", 2, "-extfile", extension, "-out", signed)  # fmt: skip
            return TlsFiles(str(self.certificate), str(signed), str(key))
        index, settings = self._directory / "index", self._directory / "ca.conf"
        index.touch()
        settings.write_text(
            "[ca]\ndefault_ca = ours\n[ours]\npolicy = any\ndefault_md = sha256\nrand_serial = yes\n"
            f"database = {index}\nnew_certs_dir = {self._directory}\n[any]\ncommonName = supplied\n"
        )
        openssl("ca", "-batch", "-config", settings, "-cert", self.certificate, "-keyfile", self._key, "-in", request,
                "-startdate", "20200101000000Z", "-enddate", until, "-extfile", extension, "-out", signed,
                "-notext")  # fmt: skip
        return TlsFiles(str(self.certificate), str(signed), str(key))

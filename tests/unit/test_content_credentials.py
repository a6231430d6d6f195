import io
import socket

import numpy as np
import pytest
from _signed_image import SIGNER, signed
from PIL import Image

from rdd.serving.content_credentials import read_credentials


@pytest.fixture(scope="module")
def plain() -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(written, "JPEG")
    return written.getvalue()


@pytest.fixture(scope="module")
def claimed(plain: bytes) -> bytes:
    return signed(plain)


def test_signer_program_and_claimed_origin_are_read(claimed: bytes) -> None:
    found = read_credentials(claimed)
    assert (found.state, found.validation, found.signer) == ("present", "Valid", SIGNER)
    assert (found.claim_generator, found.source_types) == ("painter 2.0", ("trainedAlgorithmicMedia",))
    assert found.detail == "signingCredential.untrusted"


def test_a_changed_pixel_makes_the_claim_invalid(claimed: bytes) -> None:
    place = len(claimed) - 400
    changed = claimed[:place] + bytes([claimed[place] ^ 1]) + claimed[place + 1 :]
    found = read_credentials(changed)
    assert (found.state, found.validation) == ("present", "Invalid")
    assert "dataHash.mismatch" in str(found.detail)


def test_a_file_without_credentials_has_none(plain: bytes) -> None:
    assert read_credentials(plain).state == "none"
    assert read_credentials(b"").state == "none"
    assert read_credentials(plain + b"c2pa").state == "none"


def test_broken_credentials_are_said_to_be_so(claimed: bytes) -> None:
    place = claimed.find(b"c2pa") + 200
    found = read_credentials(claimed[:place] + bytes(50) + claimed[place + 50 :])
    assert found.state == "unreadable"
    assert found.detail


@pytest.mark.timeout(20)  # a request would wait for an answer that never comes
def test_an_address_that_an_image_names_is_not_asked(plain: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa"
        xmp = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{address}"/>'
            "</rdf:RDF></x:xmpmeta>"
        )
        written = io.BytesIO()
        Image.open(io.BytesIO(plain)).save(written, "JPEG", xmp=xmp.encode())
        found = read_credentials(written.getvalue())
        with pytest.raises(BlockingIOError):  # nobody has connected
            server.accept()
    assert found.state == "unreadable"
    assert "remote" in str(found.detail).lower()

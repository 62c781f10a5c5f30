"""The installation's key: made once, kept private, renewed in time."""

import multiprocessing
import stat
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from composition.media.marks.credential import Credential
from composition.media.marks.installation_key import (
    RENEWAL,
    SIGNER_VALIDITY,
    YEAR,
    load_installation_key,
    needs_renewal,
)
from services.errors import ConfigError, StorageFailed

NOW = datetime(2026, 11, 30, tzinfo=UTC)
PROCESSES = 4


def load_certificates(credential: Credential) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(credential.chain)


def load_at_once(state: Path, barrier: Barrier) -> Credential:
    barrier.wait()
    return load_installation_key(state)


def test_only_its_owner_can_read_it_and_its_name_says_that_it_is_self_made(tmp_path: Path) -> None:
    signer, root = load_certificates(load_installation_key(tmp_path, NOW))
    folder = tmp_path / "marks"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"marks": 0o700, "root.pem": 0o600, "signer.pem": 0o600, "root-certificate.pem": 0o600}
    for certificate in (signer, root):
        (organization,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert organization.value == "Self-made certificate, untrusted"
        assert "self-made, untrusted" in str(name.value)
    signer.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert (folder / "root-certificate.pem").read_bytes() in load_installation_key(tmp_path, NOW).chain


def test_a_folder_that_others_could_read_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "marks"
    folder.mkdir(mode=0o755)
    load_installation_key(tmp_path, NOW)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_processes_that_start_at_the_same_time_get_the_same_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(PROCESSES) as pool:
        barrier = manager.Barrier(PROCESSES)
        keys = pool.starmap(load_at_once, [(tmp_path, barrier)] * PROCESSES)
    assert len(set(keys)) == 1
    names = sorted(path.name for path in (tmp_path / "marks").iterdir())
    assert names == ["root-certificate.pem", "root.pem", "signer.pem"]


def test_it_is_kept_until_it_is_near_its_end(tmp_path: Path) -> None:
    first = load_installation_key(tmp_path, NOW)
    late = NOW + SIGNER_VALIDITY - RENEWAL - timedelta(days=1)
    assert load_installation_key(tmp_path, late) == first
    assert not needs_renewal(first, late)
    end = late + timedelta(days=2)
    assert needs_renewal(first, end)
    second = load_installation_key(tmp_path, end)
    assert second.key != first.key
    assert second.expires_at >= end + SIGNER_VALIDITY
    assert load_certificates(second)[1] == load_certificates(first)[1], "those who trust the root trust the new key"
    assert load_installation_key(tmp_path, end) == second


def test_a_root_that_would_end_before_its_signer_is_replaced(tmp_path: Path) -> None:
    first = load_installation_key(tmp_path, NOW)
    second = load_installation_key(tmp_path, NOW + 26 * YEAR)
    signer, root = load_certificates(second)
    assert root != load_certificates(first)[1]
    signer.verify_directly_issued_by(root)
    assert (tmp_path / "marks" / "root-certificate.pem").read_bytes() in second.chain
    assert signer.not_valid_after_utc <= root.not_valid_after_utc


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    load_installation_key(tmp_path, NOW)
    (tmp_path / "marks" / "signer.pem").write_text("-----BEGIN")
    with pytest.raises(ConfigError, match="marks is damaged"):
        load_installation_key(tmp_path, NOW)


def test_a_state_folder_that_cannot_be_written_is_an_error_of_storage(tmp_path: Path) -> None:
    (tmp_path / "marks").write_text("a file")
    with pytest.raises(StorageFailed, match="marks cannot be read or made"):
        load_installation_key(tmp_path, NOW)

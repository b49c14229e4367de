"""What is said and published names no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_train import run_cli
from tilesegment import errors
from tilesegment.errors import TilesegmentError, without_secrets
from tilesegment.run.record import plain_settings, provenance
from tilesegment.settings import PredictSettings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://u:p@host/a.tif?sig=1&x=2", "https://host/a.tif"),
        (
            "/vsicurl/https://host/a.tif?token=9 and http://h/c",
            "/vsicurl/https://host/a.tif and http://h/c",
        ),
        ("cannot read 'https://h/q.tif?s=1'", "cannot read 'https://h/q.tif'"),
        (
            "https://h/q.tif?s=1: rows (q.tif?s=1&t=2, band 1: no)",
            "https://h/q.tif: rows (q.tif, band 1: no)",
        ),
        ("no (q.jp2?s=1&t=2, band 1) (tile?sig=3:)", "no (q.jp2, band 1) (tile:)"),
        ("see https://h/q.tif?s=a:b.", "see https://h/q.tif."),
        ("s3://bucket/key.tif", "s3://bucket/key.tif"),
        ("what? no URL; a?b.tif", "what? no URL; a?b.tif"),
        ("user@host said so", "user@host said so"),
    ],
)
def test_urls(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


def test_every_error_of_ours_hides_them() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, TilesegmentError)
    ]
    assert len(kinds) >= 8
    for kind in kinds:
        assert str(kind("https://u:p@h/a?b=c")) == "https://h/a"


def test_published_settings_and_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GDAL_HTTP_USERPWD", "GDAL_HTTP_HEADERS",
        "GDAL_HTTP_COOKIE", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN",
        "OSS_SIGNATURE", "GDAL_PROXY_PASSWORD",
    )  # fmt: skip
    options = (*((name, "abc") for name in secret), ("GDAL_CACHEMAX", "64"))
    shown = plain_settings(PredictSettings(gdal=options))
    assert shown["gdal"] == (*((name, "***") for name in secret), ("GDAL_CACHEMAX", "64"))
    from tilesegment.model.store import find_model

    marks = provenance("https://u:p@h/a.tif?sig=abc", [find_model("roofs")], shown)
    assert marks["input"] == "https://h/a.tif"
    assert "abc" not in json.dumps(marks)


def test_a_failing_url_in_every_way_of_speaking(tmp_path: Path) -> None:
    url = "http://someone:secret1@localhost:9/a.tif?X-Amz-Signature=secret2"
    for more in ([], ["--log-format", "json"], ["-v"]):
        done = run_cli("predict", url, "-o", tmp_path / "o.gpkg", "--gdal", "GDAL_HTTP_MAX_RETRY=0", *more)
        assert done.returncode == 1
        assert "secret" not in done.stderr + done.stdout
        assert "localhost:9/a.tif" in done.stderr

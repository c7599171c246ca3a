"""Settings of tools/serve.py that are rejected before torch is imported."""

from __future__ import annotations

import pytest

from segzoo.config.checks import serving
from segzoo.config.checks.serving import TOKEN, read_token, served_paths, serving_errors
from segzoo.registry import ConfigError
from segzoo.workflows.serve.address import bind, is_loopback, url

GOOD = "0123456789abcXYZ"  # as short as allowed


@pytest.mark.parametrize(
    ("ckpt", "bundle", "models", "expected"),
    [
        ("a", None, None, {"default": "a"}),
        (None, "b.zip", None, {"default": "b.zip"}),
        (None, None, {"x": "a", "y.2": "b"}, {"x": "a", "y.2": "b"}),
        (None, None, None, "there is no model to serve"),
        (None, None, {}, "there is no model to serve"),
        ("a", "b", None, "ckpt= and bundle= are both given"),
        ("a", "b", {"x": "c"}, "ckpt= and bundle= and models= are given"),
        (None, None, {"a b": "c"}, "the name 'a b' is not valid"),
    ],
)
def test_models_are_named_in_one_way(ckpt, bundle, models, expected):
    if isinstance(expected, dict):
        assert served_paths(ckpt, bundle, models) == expected
        return
    with pytest.raises(ConfigError) as error:
        served_paths(ckpt, bundle, models)
    assert expected in str(error.value)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(serving, "is_installed", lambda name: name != "uvicorn")
    assert serving_errors({"ckpt": "a"}) == ['tools/serve.py needs uvicorn, which is not installed: pip install "segzoo[serve]".']


@pytest.mark.parametrize(
    ("variable", "content", "expected"),
    [
        (None, None, None),
        (GOOD, None, GOOD),
        (None, f"{GOOD}\n", GOOD),
        (GOOD, GOOD, "are both given"),
        ("short", None, "has 5 characters, expected at least 16"),
        (None, "", "has 0 characters"),
        (None, "a token with blanks", "expected at least 16 letters"),
        (None, "\udcff" * 20, "cannot be read"),
    ],
)
def test_tokens_come_from_a_variable_or_a_file(tmp_path, monkeypatch, variable, content, expected):
    monkeypatch.delenv(TOKEN, raising=False)
    if variable is not None:
        monkeypatch.setenv(TOKEN, variable)
    file = None
    if content is not None:
        file = tmp_path / "token"
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
    if expected in (None, GOOD):
        assert read_token(token_file=file and str(file)) == expected
        return
    with pytest.raises(ConfigError) as error:
        read_token(token_file=file and str(file))
    assert expected in str(error.value)


def test_a_taken_address_is_reported_with_another_one():
    with bind(port=0) as listener:
        listener.listen()
        assert is_loopback(listener) and url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"address already in use. Set another one, such as port=\d+"):
            bind(port=listener.getsockname()[1])
    with pytest.raises(ConfigError, match="host=198.51.100.7 port=0: cannot assign requested address"):
        bind(host="198.51.100.7", port=0)
    with bind(host="0.0.0.0", port=0) as listener:
        assert not is_loopback(listener)

"""Secrets stay out; everything else stays in."""

import pytest

from metgan_dist.recipe import Recipe
from metgan_dist.tracking.redaction import redact, redact_value


@pytest.mark.parametrize(
    "text",
    [
        "uri: http://anna:{}@server:5000",
        "options: {{key: me, secret: {}}}",
        '{{"client_kwargs": {{"aws_secret_access_key": "{}"}}}}',
        "  secret: '{}'",
        "password={}",
        "session_token : {}",
    ],
)
def test_credentials_are_hidden_wherever_a_recipe_could_hold_them(text):
    assert "open sesame".replace(" ", "-") not in redact(text.format("open-sesame"))


def test_quoted_secret_is_hidden_to_its_end():
    assert redact('password: "open sesame"\nseed: 1') == "password: ***\nseed: 1"


def test_secrets_of_the_environment_are_hidden_in_free_text(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    assert redact("failed with wJalrXUtnFEMI/K7MDENG in the header") == "failed with *** in the header"


def test_a_recipe_without_secrets_is_logged_to_the_letter():
    text = Recipe().to_yaml()
    assert redact(text) == text
    nested = "key:\n  nested: 1\nsort_keys=False\nmonkey: 3\nsecret: null\n"
    assert redact(nested) == nested


def test_parameters_are_hidden_by_name():
    assert redact_value("storage.options.key", "me") == "***"
    assert redact_value("storage.options.client_kwargs.aws_secret_access_key", "x") == "***"
    assert redact_value("storage.options.secret", None) == "None"
    assert redact_value("tiles.size", 256) == "256"
    assert redact_value("storage.options.endpoint_url", "http://a:b@host") == "http://***@host"

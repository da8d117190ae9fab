"""The config file: three syntaxes, one meaning, and errors that say where."""

import json
from pathlib import Path

import pytest

from nimlite.errors import SettingError
from nimlite.settings import Origin, Settings, read_settings

TEXTS = {
    "a.yaml": "# of the cluster\nserver_port: 9000\ntags_selector: {precision: fp8, tp: 1}\n"
    "served_model_name: [a, b]\noffline: yes\nmodel_path:\n",
    "a.json": '{\n\t"server_port": 9000,\n\t"tags_selector": {"precision": "fp8", "tp": 1},\n'
    '\t"served_model_name": "a,b", "offline": true, "model_path": null\n}',
    "a.toml": 'server_port = 9000\nserved_model_name = ["a", "b"]\noffline = true\n'
    'model_path = ""\n[tags_selector]\nprecision = "fp8"\ntp = 1\n',
}


def read(path: Path, text: str) -> Settings:
    path.write_text(text)
    return read_settings({"NIM_CONFIG_FILE": str(path)})


@pytest.mark.parametrize("name", TEXTS)
def test_the_syntaxes_mean_the_same(tmp_path: Path, name: str) -> None:
    settings = read(tmp_path / name, TEXTS[name])
    assert (settings.server_port, settings.offline, settings.model_path) == (9000, True, None)
    assert settings.tags_selector == {"precision": "fp8", "tp": "1"}
    assert settings.served_model_name == ("a", "b")
    assert settings.origin("server_port") is Origin.FILE
    line = {"a.yaml": 2, "a.json": 2, "a.toml": 1}[name]
    assert settings.given["server_port"].place == f"{tmp_path / name}:{line}: server_port"
    line = {"a.yaml": 3, "a.json": 3, "a.toml": 5}[name]
    assert f":{line}: tags_selector" in settings.given["tags_selector"].place


def test_the_environment_and_flags_beat_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("server_port: 1\nmax_model_len: 1k\nmax_batch_size: 1\n")
    environ = {"NIM_SERVER_PORT": "2", "NIM_MAX_NUM_SEQS": "2", "NIM_CONFIG_FILE": "nowhere.yaml"}
    settings = read_settings(environ, {"server_port": "3", "config_file": str(path)})
    assert (settings.server_port, settings.max_batch_size, settings.max_model_len) == (3, 2, 1024)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.yaml", "max_batch_size: 1\nmax-model-len: 8\n",
         "{path}:2: max-model-len is not a setting; the nearest name is max_model_len."),
        ("a.toml", "\nserver_prot = 1", "{path}:2: server_prot is not a setting; the"),
        ("a.json", '{"server_port": 1,\n "config_file": ""}', "{path}:2: config_file is not a s"),
        ("a.yaml", "server_port: 1\nserver_port: 1\n", "{path}:2: server_port is given twice"),
        ("a.yaml", "server_port: 70000\n",
         "{path}:1: server_port=70000 can't be used. Allowed: at most 65535."),
        ("a.yaml", "model_profile: 123\n", "model_profile=123 can't be used. Allowed: a text, in"),
        ("a.yaml", "- server_port\n", "{path}:1: a mapping of settings to values is expected."),
        ("a.yaml", "a: [\n", "{path}:2: not YAML: "),
        ("a.json", "{\n a: 1}", "{path}:2: not JSON: Expecting property name"),
        ("a.toml", "a = = 1", "{path}: not TOML: Invalid value (at line 1, column 5)."),
        ("a.ini", "", "its name should end in .yaml, .yml, .json, .toml, which says how."),
        ("a.yaml", "\0", "not YAML: "),
        ("a.yaml", "[" * 1200, "not YAML: "),
    ],
)  # fmt: skip
def test_a_mistake_is_found_in_its_line(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    path = tmp_path / name
    with pytest.raises(SettingError) as raised:
        read(path, text)
    assert sentence.format(path=path) in str(raised.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"--config=.*gone\.yaml can't be read: No such file or directory"
    ):
        read_settings({}, {"config_file": str(tmp_path / "gone.yaml")})
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    with pytest.raises(SettingError, match=r"a\.yaml can't be read: it is not UTF-8 text"):
        read_settings({}, {"config_file": str(tmp_path / "a.yaml")})


def test_an_object_with_value_and_origin_is_what_config_prints(tmp_path: Path) -> None:
    printed = {"server_port": {"value": 9000, "origin": "default", "place": None}}
    assert read(tmp_path / "a.json", json.dumps(printed)).server_port == 9000

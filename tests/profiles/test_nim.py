"""NIM's shape of a manifest, by the fields that its operator's parser reads."""

from nimlite.profiles.load import load_manifests, profiles_directory
from nimlite.profiles.nim import nim_manifest


def test_every_manifest_has_nims_shape() -> None:
    for manifest in load_manifests(profiles_directory()):
        found = nim_manifest(manifest)
        assert found["schema_version"].startswith("2")
        assert found["profile_selection_criteria"] == "default"
        assert [p["id"] for p in found["profiles"]] == [p.id for p in manifest.profiles]
        for profile in found["profiles"]:
            tags = profile["tags"]
            assert {"llm_engine", "precision", "tp", "pp"} <= tags.keys()
            assert all(isinstance(value, str) for value in tags.values())
            [(path, file)] = profile["workspace"]["files"].items()
            assert path and file["uri"].startswith(("hf://", "pypi://"))


def test_a_file_keeps_its_name_and_a_repository_becomes_a_folder() -> None:
    named = {m.family: nim_manifest(m)["profiles"][0] for m in load_manifests(profiles_directory())}
    assert [*named["smollm2-135m"]["workspace"]["files"]] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    assert [*named["llama3-8b"]["workspace"]["files"]] == ["Llama-3.1-8B-Instruct"]

"""Where a run goes that was given no place: one folder under runs/, whatever the names hold."""

import pytest

from spri_dspy.commands.manifest import short_name
from tests.command import spri

SYSTEM = """
from spri_dspy.systems import load_system

def mine(task, **settings):
    return load_system("vanilla", task, **settings)
"""


@pytest.mark.parametrize("folder", ["a", "deep/er/a b", "..", "ünïcode", "x" * 90])
def test_a_system_from_a_file_makes_one_folder_with_a_sane_name(tmp_path, monkeypatch, folder):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    place = here / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / "b.py").write_text(SYSTEM)
    for system in (f"{folder}/b.py:mine", str((place / "b.py").resolve()) + ":mine"):
        code, _, err = spri("run", "reappraisal", "--system", system, "--limit", 1)
        assert code == 0, err
    made = sorted(path.name for path in (here / "runs").iterdir())
    assert {name.rpartition("-")[0] for name in made} == {"reappraisal-b-mine"}
    assert all(path.parent.parent == here / "runs" for path in here.rglob("manifest.json"))
    assert not [path for path in tmp_path.rglob("manifest.json") if here not in path.parents]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("spri", "spri"),
        ("oracle_rubrics", "oracle_rubrics"),
        ("a/b.py:X", "b-X"),
        ("/home/me/secret/b.py:X", "b-X"),
        ("../../b.py:X", "b-X"),
        ("b.py:X", "b-X"),
        ("a/b.py", "b"),
    ],
)
def test_a_name_is_short_and_without_the_folders_of_this_machine(name, short):
    assert short_name(name) == short

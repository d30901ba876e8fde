"""An export's folder on the Hugging Face hub, as a data set of one's own: `--to hub:USER/NAME`."""

from __future__ import annotations

import re
from pathlib import Path

from spri_dspy.errors import PrerequisiteError, UsageError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check(name: str) -> str:
    """The name, if data can be pushed there as things stand; nothing is asked of the hub.

    Raises:
        UsageError: it is no USER/NAME.
        PrerequisiteError: there is no token, or the hub is switched off.
    """
    from huggingface_hub import constants, get_token

    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--to hub:USER/NAME needs the name of a data set, such as hub:me/rubrics, not {name!r}"
        )
    if constants.HF_HUB_OFFLINE:
        raise PrerequisiteError(
            f"HF_HUB_OFFLINE is set: unset it, or use --to hf:DIR and upload the folder to {name}"
        )
    if get_token() is None:
        raise PrerequisiteError(
            f"no token for the hub: set HF_TOKEN, or log in with hf auth login, to push to {name}"
        )
    return name


def push(folder: Path, name: str) -> str:
    """Upload a folder in the hub's layout in one commit; a data set that is not there is made, private.

    Args:
        folder: as `--to hf:DIR` writes it.
        name: USER/NAME.

    Returns:
        Its address.

    Raises:
        PrerequisiteError: the hub cannot be reached or refuses; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=name, repo_type="dataset", folder_path=folder, commit_message="Export of a SPRI run"
        )
    except Exception as error:  # its client raises a dozen unrelated types
        said = " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__
        raise PrerequisiteError(
            f"the hub did not take {name}: {said}; the export is in {folder}: "
            f"hf upload {name} {folder} . --repo-type dataset"
        ) from None
    return str(made)

"""Jobs in processes of their own: what they take over from the one that starts them, and what comes back."""

import logging
import subprocess
import sys
from functools import partial

import pytest
import torch

from erasediff.api.beside import side_by_side
from erasediff.errors import BadInput


def tell(path):
    path.write_text(f"{torch.get_num_threads()} {logging.getLogger('quiet.library').level}")


def fail():
    raise BadInput("no such thing")


def test_jobs_share_the_threads_and_are_as_talkative_as_their_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    logging.getLogger("quiet.library").setLevel(logging.ERROR)
    side_by_side(*(partial(tell, tmp_path / name) for name in "ab"))
    assert [(tmp_path / name).read_text() for name in "ab"] == [f"3 {logging.ERROR}"] * 2


def test_what_a_job_raises_is_raised():
    with pytest.raises(BadInput, match="no such thing"):
        side_by_side(fail)


def test_a_new_process_hears_how_talkative_to_be_before_it_imports_anything_heavy():
    asked = "import sys, erasediff.api.beside; print(*({'torch', 'diffusers'} & set(sys.modules)))"
    heavy = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert not heavy.split()

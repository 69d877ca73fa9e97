"""The scripts: joined without a build step, no name twice, and their own tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from visualheads.explorer.page import STATIC, page_script, style, widget_script

TESTS = Path(__file__).with_name("js")
TOP = re.compile(r"^(?:async )?(?:function|const|let|class) (\w+)|^const \{?\[?([\w, ]+)[\]}] =", re.MULTILINE)


@pytest.mark.parametrize("script", [page_script, widget_script])
def test_joined_modules_share_no_name(script):
    text = script()
    names = [name.strip() for found in TOP.findall(text) for name in (found[0] or found[1]).split(",")]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert "import {" not in text and not re.search(r"^export (?!default)", text, re.MULTILINE)


def test_every_module_is_used():
    used = set(re.findall(r"^// ([\w-]+\.js)$", page_script() + widget_script(), re.MULTILINE))
    assert used == {path.name for path in STATIC.glob("*.js")}


def test_styles_stay_inside():
    rules = re.sub(r"/\*.*?\*/|@[^{]+\{", "", style(), flags=re.DOTALL)
    for selectors in re.findall(r"([^{}]+)\{[^{}]*\}", rules):
        assert ".vh-" in selectors, selectors


def test_the_scripts_own_tests():
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    done = subprocess.run([node, "--test", *map(str, sorted(TESTS.glob("*.test.js")))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]

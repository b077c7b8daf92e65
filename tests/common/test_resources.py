"""Cores and memory, inside and outside a container."""

import os

import pytest

from afad_tfdata.common import resources


def _container(directory, limit, used, cache):
    files = []
    for name, text in (("max", limit), ("current", used)):
        path = directory / f"memory.{name}"
        path.write_text(f"{text}\n")
        files.append(str(path))
    (directory / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    return (tuple(files),)


def test_a_container_limits_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_LIMITS", _container(tmp_path, 5000, 3000, 400))
    # Cached files count as used memory, but the kernel drops them when it needs it.
    assert resources.available_bytes() == 2400


def test_a_container_without_a_limit_has_the_memory_of_the_machine(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(resources, "_LIMITS", _container(tmp_path, "max", 3000, 0))
    assert resources.available_bytes() > 1 << 20


def test_a_container_that_is_full_has_nothing_left(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_LIMITS", _container(tmp_path, 1000, 3000, 0))
    assert resources.available_bytes() == 0


def test_cores_are_those_that_the_process_is_pinned_to(monkeypatch):
    assert 1 <= resources.cores() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
    assert resources.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert resources.cores() == os.cpu_count()


@pytest.mark.parametrize(
    "content, cores",
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("torn", 8)],
)
def test_cores_are_those_of_the_containers_quota(tmp_path, monkeypatch, content, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(resources, "_CPU_CFS", ("/nowhere", "/nowhere"))
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(resources, "_CPU_MAX", str(tmp_path / "cpu.max"))
    assert resources.cores() == cores


@pytest.mark.parametrize("quota, cores", [("-1", 8), ("300000", 3)])
def test_cores_are_those_of_an_old_containers_quota(
    tmp_path, monkeypatch, quota, cores
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(resources, "_CPU_MAX", "/nowhere")
    paths = (tmp_path / "quota", tmp_path / "period")
    for path, text in zip(paths, (quota, "100000"), strict=True):
        path.write_text(text)
    monkeypatch.setattr(resources, "_CPU_CFS", tuple(map(str, paths)))
    assert resources.cores() == cores
